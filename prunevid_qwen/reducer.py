"""The one protocol of stages 1 and 2, what it may look at, and the registry of its implementations."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypeVar, runtime_checkable

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.config.flat_methods import FlatMethodOptions, flat_options_of
from prunevid_qwen.config.method_base import fixed_share
from prunevid_qwen.config.option_classes import enter, name_of, names_in, options_class
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.needs import AttentionQuery as AttentionQuery
from prunevid_qwen.needs import Evidence as Evidence
from prunevid_qwen.needs import Needs as Needs
from prunevid_qwen.needs import Probe as Probe
from prunevid_qwen.needs import VisionQuery as VisionQuery
from prunevid_qwen.needs import VisionTaps as VisionTaps
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap


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


@runtime_checkable
class Prepares(Protocol):
    """A reducer that looks at a sample once, before any step, and is handed what it made of it at its steps."""

    def prepare(self, seen: Evidence) -> Any:
        """Look at a prompt as it came; what is returned comes back at each of this reducer's steps as ``seen.note``.

        Once for each sample, whatever steps of the plan this reducer stands in. ``seen`` holds the layout before any
        step, the input embeddings of the visual tokens (``hidden``) and of the text tokens that ``needs.question``
        names (``question``), and nothing else. Text keeps its order from then on, so row i of ``question`` is the i-th
        of them at every step.
        """
        ...


@runtime_checkable
class ChecksPlaces(Protocol):
    """A reducer that can act at some places of a decoder only."""

    def check_places(self, places: Sequence[int], depth: int) -> None:
        """Refuse places at which it cannot act, when a plan is compiled.

        Args:
            places: on whose outputs its steps act, ascending, -1 being the decoder's door.
            depth: layers of the decoder.

        Raises:
            ConfigError: so it is.
        """
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
        ValueError: ``name`` is no text or is taken in that stage, there is no such stage, or the options are another
            method's or no such dataclass.
    """

    if not isinstance(name, str) or not name:
        raise ValueError(f'register takes the name of the method: @register("name", ItsOptions); got {quoted(name)}')
    if stage not in _PARTS:
        raise ValueError(f"stage is 1 (before the decoder) or 2 (inside it), got {quoted(stage)}")
    if options is None:
        warnings.warn(
            f"reducer {quoted(name)} has no options of its own: write them as a frozen dataclass and register both, "
            f"@register({name!r}, ItsOptions); from_config goes with the next release",
            FutureWarning,
            stacklevel=2,
        )

    def add(cls: R) -> R:
        if (stage, name) in _REDUCERS:
            other = _REDUCERS[stage, name]
            raise ValueError(
                f"reducer {quoted(name)} is taken by {other.__module__}.{other.__qualname__}: choose another name, and "
                "register a class once"
            )
        enter(_PARTS[stage], name, options or flat_options_of(_PARTS[stage], cls.__name__), cls)
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
    if not is_reducer(made):
        raise ConfigError(
            f"{cls.__name__} is registered as {_PARTS[stage]} {quoted(name_of(_PARTS[stage], options))} and is no "
            "reducer: give it `needs` (a Needs) and `plan(seen) -> TokenMap`"
        )
    return made  # type: ignore[no-any-return]


def needs_of(reducer: Reducer) -> Needs:
    """Return what a reducer asks for.

    Raises:
        ConfigError: that is no `Needs`.
    """
    needs: Any = reducer.needs
    if not isinstance(needs, Needs):
        raise ConfigError(
            f"{type(reducer).__name__}.needs is {quoted(needs)}: give it Needs(), with what `plan` reads beyond states"
        )
    return needs


def decided_by(reducer: Reducer, seen: Evidence) -> TokenMap:
    """Let a reducer decide.

    Raises:
        ConfigError: what it returns is no map of the tokens that it was shown.
    """
    step: Any = reducer.plan(seen)
    if not isinstance(step, TokenMap):
        raise ConfigError(
            f"{type(reducer).__name__}.plan returned a {type(step).__name__}: return a TokenMap, such as "
            "TokenMap.keep(index, n)"
        )
    n = seen.layout.visual.numel()
    if step.n_in != n:
        raise ConfigError(
            f"{type(reducer).__name__}.plan returned a map of {step.n_in} tokens, and it was shown {n}: map all of "
            "seen.layout.visual, TokenMap.keep(index, seen.layout.visual.numel()); check_reducer checks the rest"
        )
    return step


@dataclass(frozen=True)
class Sayings:
    """What a method says of itself; see `MethodOptions` for the meaning of each."""

    lever: str | None = None
    lever_needs: Mapping[str, Any] = field(default_factory=dict)
    chance: bool = False
    exact: bool = False
    trained: bool = False
    told: bool = False


def says(options: Any, stage: int = 2) -> Sayings:
    """Return what the method of these options says of itself: on its reducer, else on its options.

    Args:
        options: of a registered method of that stage, a reducer itself, or None for a stage that is off.
        stage: 1 or 2.
    """
    plain = Sayings()
    if options is None:
        return plain
    cls = type(options) if is_reducer(options) else reducer_class(name_of(_PARTS[stage], options), stage)
    values = {each.name: getattr(plain, each.name) for each in fields(plain)}
    for name, value in values.items():
        values[name] = getattr(cls, name, getattr(options, name, value))
    if values["lever"] is None:  # the usual names
        values["lever"] = next((name for name in _LEVERS[stage] if hasattr(options, name)), None)
    return Sayings(**values)


def most(own: Any, layout: TokenLayout, step: int = 0) -> int | None:
    """Return how many visual tokens a method may leave of a sample at most; None: what is seen decides.

    A method that does not say so (``most(layout, step)`` of its options or its reducer) is held to a ``keep_ratio`` or
    ``keep_tokens`` of each video and image, where it has one.

    Args:
        own: its options, or its reducer.
        layout: of what comes to the step.
        step: which of the method's steps it is, from 0.
    """
    if hasattr(own, "most"):
        said: int | None = own.most(layout, step)
        return said
    share, count = fixed_share(own), getattr(own, "keep_tokens", None)
    if share is None and count is None:
        return None
    return sum(count_of(each.stop - each.start, share or 1, count) for each in layout.blocks if each.stop > each.start)


def is_reducer(what: object) -> bool:
    """Tell a reducer from options: it decides."""
    return not isinstance(what, type) and callable(getattr(what, "plan", None)) and hasattr(what, "needs")


def registered_as(cls: type) -> tuple[int, str] | None:
    """Return stage and name under which a reducer class, or its class of options, is registered; None: it is not."""
    for (stage, name), known in _REDUCERS.items():
        if cls is known or cls is options_class(_PARTS[stage], name):
            return stage, name
    return None


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
