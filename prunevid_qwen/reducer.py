"""The one protocol of stages 1 and 2, what it may look at, and the registry of its implementations."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.flat_methods import FlatMethodOptions, flat_options_of
from prunevid_qwen.config.table import enter, name_of, names_in
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap


@dataclass(frozen=True)
class AttentionQuery:
    """Which question -> visual attention a reducer wants to see.

    Args:
        source: "post_rope" (the model's own, causal) or "pre_rope" (before rotary embedding, no causal mask).
        heads: "max" or "mean" over heads, first.
        rows: "max" or "mean" over the question's tokens, then; "last" is the last one alone.
        tokens: which text tokens are the question: "all" after the last visual one, "question" (the user's words) or
            "last", as in `TokenLayout.asking`.
    """

    source: str = "post_rope"
    heads: str = "max"
    rows: str = "max"
    tokens: str = "all"


@dataclass(frozen=True, eq=False)
class Probe:
    """Extra tokens that follow the prompt through the first layers to see what they attend to, and leave no trace.

    They stand at the places after the prompt's last token, attend to the whole prompt and, causally, to each other; no
    other token sees them, and no cache, position or output holds them.

    Args:
        vectors: [L, P, D] for P tokens: their input embeddings, then what is added to their states before layers 1, 2
            and so on (a deep prompt); L the layers of the model that it was made for.
        layers: whose attention is read, ascending, below L.
        heads: attention heads that each of these layers has to have.
    """

    vectors: Tensor
    layers: tuple[int, ...]
    heads: int


@dataclass(frozen=True)
class VisionTaps:
    """Which blocks of the vision tower a reducer looks into.

    Args:
        blocks: indices from 0, in the order in which the reducer wants them.
        width: channels that the tower's blocks have to have.
    """

    blocks: tuple[int, ...]
    width: int


@dataclass(frozen=True)
class Needs:
    """Evidence that costs something, gathered only for a reducer that asks. A field for each kind, as users come.

    Args:
        attention: which attention, if any.
        question: the states of the question's tokens. A stage 1 reducer that does not ask for them decides once for all
            questions about the same video in a batch.
        probe: tokens to send along, if any; not at the decoder's door, and by one step of a plan alone.
        taps: blocks of the vision tower, if any; likewise.
        marks: what the caller of `pruned` says of each token; not at the door.
        layer: the layer after which alone the reducer can act, because it was trained there; None for any.
    """

    attention: AttentionQuery | None = None
    question: bool = False
    probe: Probe | None = None
    taps: VisionTaps | None = None
    marks: bool = False
    layer: int | None = None


@dataclass(frozen=True)
class Evidence:
    """All that a reducer may look at: one sample, never a model.

    Args:
        layout: what each position of the sample is.
        hidden: [N, D] states of the visual tokens at this depth, model dtype.
        question: [Q, D] states of the question's tokens; [0, D] unless `Needs.question` asked.
        attention: [N] fp32, natural logarithm of the attention probability, reduced over heads and question tokens as
            `Needs.attention` asked; None when it did not. Reduced as it is computed: the whole [H, Q, N] array is what
            long videos cannot afford.
        probe: [L, H, P, N] fp32 attention logits (queries by keys by the layer's scale, no mask, no softmax) of the
            tokens of `Needs.probe` in its layers; None when it did not ask.
        taps: [L, N, C] outputs of the vision tower's blocks in the order of `Needs.taps`, the mean over the patches of
            a token (and then over its members, where a step before merged); None when it did not ask.
        marks: [N] fp32 in [0, 1] what the caller says of each token (of a merged one, the most said of a member); None
            when it did not ask.
    """

    layout: TokenLayout
    hidden: Tensor
    question: Tensor
    attention: Tensor | None = None
    probe: Tensor | None = None
    taps: Tensor | None = None
    marks: Tensor | None = None


@runtime_checkable
class Reducer(Protocol):
    """One reduction step of stage 1 or 2: pure, deterministic, sees evidence and never a model."""

    @property
    def needs(self) -> Needs:
        """Evidence beyond layout and states that `plan` reads."""
        ...

    def plan(self, seen: Evidence) -> TokenMap:
        """Decide which visual tokens stay: a map over ``seen.layout.visual``."""
        ...


def merges(reducer: Reducer) -> bool:
    """Say whether a reducer declares, by a class attribute ``merges = True``, that it may merge inside the decoder.

    Without it one that stands between two layers may only drop.
    """
    return bool(getattr(reducer, "merges", False))


@runtime_checkable
class GivesReasons(Protocol):
    """A stage 1 reducer that knows when it may rightly change nothing."""

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Say why all tokens of these videos and images may come through, as a receipt's note; None: they may not."""
        ...


def why_unchanged(reducer: Reducer, blocks: Sequence[Block]) -> str | None:
    """Say why a stage 1 reducer may leave every token of a sample as it came; None: then it did not do its work.

    One that gives no reasons has to change every sample with a video of two tokens or more.

    Args:
        reducer: of stage 1.
        blocks: the sample's videos and images, whole.
    """
    if isinstance(reducer, GivesReasons):
        return reducer.why_unchanged(blocks)
    sizes = [block.stop - block.start for block in blocks if block.kind == "video"]
    return None if any(size > 1 for size in sizes) else "nothing to do: no video of more than one token"


R = TypeVar("R", bound=type[Reducer])
_REDUCERS: dict[tuple[int, str], type[Reducer]] = {}
_PARTS = {1: "merger", 2: "selector"}
_LEVERS = {1: ("cluster_ratio", "keep_ratio"), 2: ("keep_ratio",)}


def register(name: str, options: type | None = None, stage: int = 2) -> Callable[[R], R]:
    """Enter a reducer class and its options under the paper's own name, for stage 1 (before the decoder) or 2.

    The class is made by its ``from_options(options)`` where it has one; else, where it extends ``options``, with the
    same fields; else by calling it with the options.

    Args:
        name: how configs and command lines call it.
        options: a frozen dataclass of this method's own, with a default for each field. ``layers`` in it says before
            which decoder layer a stage 2 reducer acts; a class without it acts at the depth's default. None, for one
            release, for a reducer written for 0.1: made by its ``from_config(config)``, with all flat options of its
            stage; a `FutureWarning` says so.
        stage: 1 or 2.

    Raises:
        ValueError: the name is taken in that stage, or the options are another method's or no such dataclass.
    """

    if options is None:
        warnings.warn(
            f"reducer {quoted(name)} has no options of its own: write them as a frozen dataclass and register both, "
            f"@register({name!r}, ItsOptions); from_config goes with the next release",
            FutureWarning,
            stacklevel=2,
        )

    def add(cls: R) -> R:
        if (stage, name) in _REDUCERS:
            raise ValueError(f"reducer {quoted(name)} is taken by {_REDUCERS[stage, name].__qualname__}")
        enter(_PARTS[stage], name, flat_options_of(_PARTS[stage], cls.__name__) if options is None else options)
        _REDUCERS[stage, name] = cls
        return cls

    return add


def made_by(options: Any, stage: int = 2, config: PruneVidConfig | None = None) -> Reducer:
    """Make the reducer that these options belong to.

    Args:
        options: of a registered method of that stage.
        stage: 1 or 2.
        config: that they are part of, for a reducer with ``from_config``; None for one of these options alone.

    Raises:
        ConfigError: they are no registered method's, or its own refusal.
    """
    cls: Any = reducer_class(name_of(_PARTS[stage], options), stage)
    if isinstance(options, FlatMethodOptions):
        own: dict[str, Any] = {_PARTS[stage]: options}
        made = cls.from_config(PruneVidConfig(**own) if config is None else config)
    elif hasattr(cls, "from_options"):
        made = cls.from_options(options)
    elif issubclass(cls, type(options)):
        made = cls(**{name: getattr(options, name) for name in names_in(type(options))})
    else:
        made = cls(options)
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Sayings:
    """What a method says of itself; see `MethodOptions` for the meaning of each."""

    lever: str | None = None
    lever_needs: Mapping[str, Any] = field(default_factory=dict)
    chance: bool = False
    exact: bool = False
    told: bool = False


def says(options: Any, stage: int = 2) -> Sayings:
    """Return what the method of these options says of itself: on its reducer, else on its options.

    Args:
        options: of a registered method of that stage, or None for a stage that is off.
        stage: 1 or 2.
    """
    plain = Sayings()
    if options is None:
        return plain
    cls = reducer_class(name_of(_PARTS[stage], options), stage)
    values = {each.name: getattr(plain, each.name) for each in fields(plain)}
    for name, value in values.items():
        values[name] = getattr(cls, name, getattr(options, name, value))
    if values["lever"] is None:  # the usual names
        values["lever"] = next((name for name in _LEVERS[stage] if hasattr(options, name)), None)
    return Sayings(**values)


def reducer_class(name: str, stage: int = 2) -> type[Reducer]:
    """Return the reducer of a stage that is registered as ``name``.

    Raises:
        ConfigError: no such reducer; the nearest name is offered.
    """
    if (stage, name) not in _REDUCERS:
        known = registered(stage)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        what = "selector" if stage == 2 else "merger"
        raise ConfigError(f"no {what} is called {quoted(name)}.{hint} Known: {', '.join(known)}")
    return _REDUCERS[stage, name]


def registered(stage: int) -> tuple[str, ...]:
    """Return the names of all reducers of a stage, sorted."""
    return tuple(sorted(name for at, name in _REDUCERS if at == stage))
