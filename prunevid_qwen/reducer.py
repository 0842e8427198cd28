"""Reducer: the protocol of stages 1 and 2, and the registry of its implementations."""

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
    """A method of stage 1 or 2. It is pure and deterministic, and reads evidence, never the model."""

    @property
    def needs(self) -> Needs:
        """The evidence that `plan` reads besides layout and states."""
        ...

    def plan(self, seen: Evidence) -> TokenMap:
        """Decide which visual tokens are left, and return a map over ``seen.layout.visual``."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A reducer that reads each sample once before any step, and gets its own result back at its steps."""

    def prepare(self, seen: Evidence) -> Any:
        """Read a prompt before any step. The return value is ``seen.note`` at each of this reducer's steps.

        It is called once for each sample. ``seen`` has the layout before any step and the input embeddings of the
        visual tokens (``hidden``) and of ``needs.question`` (``question``, whose row i is the same token at every
        step).
        """
        ...


@runtime_checkable
class ChecksPlaces(Protocol):
    """A reducer that can act after some layers of a decoder only."""

    def check_places(self, places: Sequence[int], depth: int) -> None:
        """Check the layers of the reducer's steps when a plan is compiled.

        Args:
            places: the layers on whose outputs its steps act, ascending; -1 is the decoder's door.
            depth: number of decoder layers.

        Raises:
            ConfigError: the reducer cannot act there.
        """
        ...


def merges(reducer: Reducer) -> bool:
    """Return True if a reducer's class has ``merges = True``: it may merge tokens inside the decoder.

    Without it, a reducer between two layers may only drop tokens.
    """
    return bool(getattr(reducer, "merges", False))


@runtime_checkable
class GivesReasons(Protocol):
    """A stage 1 reducer that can explain why it changed nothing."""

    def why_unchanged(self, blocks: Sequence[Block]) -> str | None:
        """Return the reason, for the receipt, why these videos and images may stay unchanged; None: they may not."""
        ...


def why_unchanged(reducer: Reducer, blocks: Sequence[Block]) -> str | None:
    """Return the reason why a stage 1 reducer may leave a sample unchanged; None: an unchanged sample is an error.

    A reducer without `why_unchanged` must change every sample with a video of two tokens or more.

    Args:
        reducer: a reducer of stage 1.
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
    """Register a reducer class and its options as a method: stage 1 is before the decoder, stage 2 inside it.

    Use it as a class decorator: ``@register("mine", MineOptions)``. The reducer is made by the class's
    ``from_options(options)`` if it has one. Else a class that extends ``options`` is called with the same fields, and
    any other class with the options.

    Args:
        name: name of the method in configs and on the command line.
        options: a frozen dataclass of the method's own options, with a default for each field. A field ``layers`` holds
            the decoder layers before which a stage 2 reducer acts; without it the depth's default is used. None is for
            reducers written for 0.1: made by ``from_config(config)``, with all flat options of their stage and a
            `FutureWarning`.
        stage: 1 or 2.

    Raises:
        ValueError: ``name`` is no text or is taken, ``stage`` is wrong, or ``options`` is taken or no frozen dataclass.
    """

    if not isinstance(name, str) or not name:
        raise ValueError(f'register needs the name of the method, @register("name", ItsOptions); got {quoted(name)}')
    if stage not in _PARTS:
        raise ValueError(f"stage is 1 (before the decoder) or 2 (inside it), got {quoted(stage)}")
    if options is None:
        warnings.warn(
            f"reducer {quoted(name)} has no options of its own, and from_config will be removed in the next release: "
            f"write its options as a frozen dataclass and register both, @register({name!r}, ItsOptions)",
            FutureWarning,
            stacklevel=2,
        )

    def add(cls: R) -> R:
        if (stage, name) in _REDUCERS:
            other = _REDUCERS[stage, name]
            raise ValueError(
                f"the name {quoted(name)} is taken by {other.__module__}.{other.__qualname__}: choose another name, "
                "and register each class once"
            )
        enter(_PARTS[stage], name, options or flat_options_of(_PARTS[stage], cls.__name__), cls)
        _REDUCERS[stage, name] = cls
        return cls

    return add


def made_by(options: Any, stage: int = 2, config: PruneVidConfig | None = None) -> Reducer:
    """Make the reducer of these options.

    Args:
        options: options of a registered method of that stage.
        stage: 1 or 2.
        config: the config of the options, for a reducer with ``from_config``. None: a config of these options alone.

    Raises:
        ConfigError: the options belong to no registered method, or the method refuses them.
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
            f"{cls.__name__}, registered as {_PARTS[stage]} {quoted(name_of(_PARTS[stage], options))}, is no reducer: "
            "give it `needs` (a Needs) and `plan(seen) -> TokenMap`"
        )
    return made  # type: ignore[no-any-return]


def needs_of(reducer: Reducer) -> Needs:
    """Return the needs of a reducer.

    Raises:
        ConfigError: they are no `Needs`.
    """
    needs: Any = reducer.needs
    if not isinstance(needs, Needs):
        raise ConfigError(
            f"{type(reducer).__name__}.needs is {quoted(needs)}: give it Needs(), with the evidence that `plan` reads"
        )
    return needs


def decided_by(reducer: Reducer, seen: Evidence, made: Any = None) -> TokenMap:
    """Return a reducer's decision: ``made``, or where that is None what its ``plan`` says.

    Raises:
        ConfigError: it is no map over the visual tokens of ``seen``.
    """
    step: Any = reducer.plan(seen) if made is None else made
    if not isinstance(step, TokenMap):
        raise ConfigError(
            f"{type(reducer).__name__}.plan returned a {type(step).__name__}: return a TokenMap, such as "
            "TokenMap.keep(index, n)"
        )
    n = seen.layout.visual.numel()
    if step.n_in != n:
        raise ConfigError(
            f"{type(reducer).__name__}.plan returned a map of {step.n_in} tokens, but the sample has {n} visual "
            "tokens: map all of them, TokenMap.keep(index, seen.layout.visual.numel()); check_reducer checks the rest"
        )
    return step


@dataclass(frozen=True)
class Sayings:
    """The attributes of a method; `MethodOptions` explains each."""

    lever: str | None = None
    lever_needs: Mapping[str, Any] = field(default_factory=dict)
    chance: bool = False
    exact: bool = False
    trained: bool = False
    told: bool = False
    ours: bool = False


def says(options: Any, stage: int = 2) -> Sayings:
    """Return the attributes of a method: from its reducer, else from its options.

    Args:
        options: options of a registered method of that stage, a reducer, or None for a stage that is off.
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
    """Return the largest number of visual tokens that a method may leave of a sample; None: it depends on the content.

    It is ``most(layout, step)`` of the options or the reducer. Without that method it is the ``keep_ratio`` or
    ``keep_tokens`` of each video and image, added up.

    Args:
        own: the method's options or reducer.
        layout: layout of the tokens before the step.
        step: number of the step among the method's steps, from 0.
    """
    if hasattr(own, "most"):
        said: int | None = own.most(layout, step)
        return said
    share, count = fixed_share(own), getattr(own, "keep_tokens", None)
    if share is None and count is None:
        return None
    return sum(count_of(each.stop - each.start, share or 1, count) for each in layout.blocks if each.stop > each.start)


def is_reducer(what: object) -> bool:
    """Return True if ``what`` is a reducer and not options: it has ``plan`` and ``needs``."""
    return not isinstance(what, type) and callable(getattr(what, "plan", None)) and hasattr(what, "needs")


def registered_as(cls: type) -> tuple[int, str] | None:
    """Return the stage and the name of a registered reducer class or options class; None if it is not registered."""
    for (stage, name), known in _REDUCERS.items():
        if cls is known or cls is options_class(_PARTS[stage], name):
            return stage, name
    return None


def reducer_class(name: str, stage: int = 2) -> type[Reducer]:
    """Return the reducer class of a stage that is registered as ``name``.

    Raises:
        ConfigError: there is no such method. The message suggests the nearest name.
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
