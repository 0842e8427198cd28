"""PruneVidConfig: merger, selector, reading of videos, cache and positions. Imports no torch.

Each method has its own options (`methods.py`) with full names such as "selector.keep_ratio". The flat names known from
the port ("keep_ratio") are valid everywhere; `placing.py` assigns each of them to a method.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.config.flat import FLAT, SCHEMES, pruning_layer_of
from prunevid_qwen.config.flat import READING as FLAT_READING
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.config.method_base import check_budgets, fixed_share
from prunevid_qwen.config.methods import PruneVidMergeOptions, PruneVidOptions
from prunevid_qwen.config.option_checks import is_number, unknown
from prunevid_qwen.config.option_classes import name_of, options_class
from prunevid_qwen.config.placing import carried, other_budget, place
from prunevid_qwen.config.stored import flat_options, nested_options, read_flat, read_nested
from prunevid_qwen.errors import ConfigError, excerpt, quoted

REPORTING = ("verbose", "collect_stats")
"""Fields that change the report of a run and not its answer."""

_STAGES = {"merger": "enable_stage1", "selector": "enable_stage2"}
_DEFAULTS: dict[str, type] = {"merger": PruneVidMergeOptions, "selector": PruneVidOptions}
_UNSET: Any = type("Unset", (), {"__repr__": lambda _self: "the paper's"})()


@dataclass(frozen=True, init=False)
class PruneVidConfig:
    """The pruning methods with their budgets, and the sampling of videos. Values are checked on construction.

    Besides the fields it takes options by their flat names, and these can be read:
    ``PruneVidConfig(keep_ratio=0.2).keep_ratio``. A flat name that the chosen methods lack is refused by the
    constructor. Reading it gives the default of version 0.1.

    Args:
        merger: stage 1: the options of a method, or its name (``"rlt"``: its paper's defaults). None turns it off.
        selector: stage 2: the options of a method, or its name. None turns it off.
        reading: options of sampling and reading videos.
        compress_cache: stage 3, cut the caches of the layers before the selector to the kept tokens. The default is
            True. For a selector that merges inside the decoder the default is False, and True is refused.
        position_scheme: "reference" gives the M-RoPE positions that Qwen2.5-VL was trained with. "hf" leaves those of
            the installed transformers.
        verbose: `PrunedVLM.generate` logs a line for each stage.
        collect_stats: `PrunedVLM.generate` returns the receipt under "stats", unless ``return_stats=False`` is passed.
            `pruned` ignores ``verbose`` and ``collect_stats``. Configs that differ in these two alone are equal, and
            `to_dict`, JSON and receipts leave both out.
        flat: options by flat name, see `FlatOptions`. ``enable_stage1=False`` and ``enable_stage2=False`` turn a stage
            off. The options of a stage that is off are accepted and dropped.

    Raises:
        ConfigError: a value is outside its range or of the wrong type, or the chosen methods have no option of a name.
    """

    merger: Any = field(default_factory=PruneVidMergeOptions)
    selector: Any = field(default_factory=PruneVidOptions)
    reading: Reading = field(default_factory=Reading)
    compress_cache: bool = True
    position_scheme: str = "reference"
    verbose: bool = field(default=False, compare=False)
    collect_stats: bool = field(default=True, compare=False)

    def __init__(
        self,
        merger: Any = _UNSET,
        selector: Any = _UNSET,
        reading: Reading = _UNSET,
        compress_cache: bool = _UNSET,
        position_scheme: str = "reference",
        verbose: bool = False,
        collect_stats: bool = True,
        **flat: Any,
    ) -> None:
        compress = flat.pop("enable_cache_compression", _UNSET)
        if compress is not _UNSET and compress_cache is not _UNSET and compress != compress_cache:
            raise ConfigError("compress_cache and enable_cache_compression are one option: give one of them")
        compress_cache = compress if compress_cache is _UNSET else compress_cache
        chosen, off = {}, {}
        for part, given in (("merger", merger), ("selector", selector)):
            enabled = flat.pop(_STAGES[part], _UNSET)
            chosen[part], off[part] = _choose(part, given, enabled)
        classes = {part: None if own is None else type(own) for part, own in chosen.items()}
        placed = place(flat, classes, off)
        for part, own in chosen.items():
            object.__setattr__(self, part, dataclasses.replace(own, **placed[part]) if placed[part] else own)
            check_budgets(getattr(self, part))
        reading = Reading() if reading is _UNSET else reading
        if not isinstance(reading, Reading):
            raise ConfigError(f"reading is a Reading, got {quoted(reading)}")
        object.__setattr__(self, "reading", dataclasses.replace(reading, **placed["reading"]))
        usual = _compresses(self.selector)
        object.__setattr__(self, "compress_cache", usual if compress_cache is _UNSET else compress_cache)
        object.__setattr__(self, "position_scheme", position_scheme)
        object.__setattr__(self, "verbose", verbose)
        object.__setattr__(self, "collect_stats", collect_stats)
        for name in ("compress_cache", *REPORTING):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False, got {quoted(getattr(self, name))}")
        if self.compress_cache and not usual:
            raise ConfigError(
                f"selector {self.selector_name!r} may merge tokens between two layers, and the caches of the layers "
                "before it hold no merged tokens: leave compress_cache (enable_cache_compression) out or False, or "
                "turn its merging off"
            )
        if position_scheme not in SCHEMES:
            raise ConfigError(unknown("position_scheme is one of", position_scheme, SCHEMES))

    def __getattr__(self, name: str) -> Any:
        """Return an option by its flat name. An option that no chosen method has gives its default of version 0.1."""
        if name not in FLAT:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name in FLAT_READING:
            return getattr(self.reading, FLAT_READING[name])
        for own in _in_order(name, self.merger, self.selector):
            if hasattr(own, name):
                return getattr(own, name)
            if name == "pruning_layer" and hasattr(own, "layers"):
                return pruning_layer_of(own.layers)
        return FLAT[name]

    @property
    def enable_stage1(self) -> bool:
        """True if stage 1 is on: a merger reduces tokens before the decoder."""
        return self.merger is not None

    @property
    def enable_stage2(self) -> bool:
        """True if stage 2 is on: a selector keeps tokens inside the decoder."""
        return self.selector is not None

    @property
    def enable_cache_compression(self) -> bool:
        """The flat name of ``compress_cache``."""
        return self.compress_cache

    @property
    def merger_name(self) -> str | None:
        """The registered name of the merger; None if stage 1 is off."""
        return None if self.merger is None else name_of("merger", self.merger)

    @property
    def selector_name(self) -> str | None:
        """The registered name of the selector; None if stage 2 is off."""
        return None if self.selector is None else name_of("selector", self.selector)

    @property
    def fixed_keep_ratio(self) -> float | None:
        """The share that the selector keeps of every video; None if its budget is a count or depends on the content."""
        return float(self.keep_ratio) if self.selector is None else fixed_share(self.selector)

    def has(self, name: str) -> bool:
        """Return True if a chosen method has an option of this name."""
        return hasattr(self.merger, name) or hasattr(self.selector, name)

    def replace(self, **changes: Any) -> PruneVidConfig:
        """Return a copy with some options changed, by flat or full names (``**{"selector.keep_ratio": 0.2}``).

        Another method (``selector="fastv"``) has its own defaults. Options that both methods have keep their value if
        it was changed before. Naming a method turns its stage on. ``pruning_rate`` is accepted as in `from_dict`.

        Raises:
            ConfigError: as in the constructor.
        """
        changes, chosen = _with_keep_ratio(changes), {}
        for part, switch in _STAGES.items():
            before, given = getattr(self, part), changes.pop(part, _UNSET)
            if changes.get(switch) is True and given is _UNSET and before is None:
                given = _DEFAULTS[part]()
            if isinstance(given, str) and before is not None and changes.get(switch) is not False:
                cls = options_class(part, given)
                given = before if type(before) is cls else cls(**_unless(carried(before, cls), part, changes))
            chosen[part] = before if given is _UNSET else given
        known = {part: own if dataclasses.is_dataclass(own) else None for part, own in chosen.items()}
        own = {part: chosen[part] if it is None else other_budget(part, known, changes) for part, it in known.items()}
        changes.update(own)
        if "enable_cache_compression" not in changes and self.compress_cache != _compresses(self.selector):
            changes.setdefault("compress_cache", self.compress_cache)
        own = {name: getattr(self, name) for name in ("reading", "position_scheme", *REPORTING)}
        return type(self)(**{**own, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return all options that affect an answer, nested by their full names and ready for JSON (format 2)."""
        return nested_options(self)

    def flat(self) -> dict[str, Any]:
        """Return the options of `to_dict` by flat names, as in receipts and records of runs.

        An option that no chosen method has is included with its default. One without a flat name has its full name.
        """
        return flat_options(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> PruneVidConfig:
        """Return the config with the options of a dict: from `to_dict`, or by flat names. Missing options have
        defaults.

        A dict without "format" has the flat names and the defaults of version 0.1. An option that the chosen methods
        lack is then ignored if it has that version's default. ``pruning_rate`` (the share removed) is accepted instead
        of ``keep_ratio``.

        Raises:
            ConfigError: a name is unknown (the message suggests the nearest), the methods lack an option, or a value is
                out of range.
        """
        if "format" in options:
            return cls(**read_nested(options))
        return cls(**read_flat(_with_keep_ratio(options)))

    @classmethod
    def from_record(cls, options: Mapping[str, Any]) -> PruneVidConfig:
        """Return the config that a run stored by flat names. Options that its methods did not read are ignored.

        Raises:
            ConfigError: as in `from_dict`.
        """
        return cls(**read_flat(options, strict=False))

    def to_json(self, path: str | Path | None = None) -> str:
        """Return `to_dict` as JSON text, and write it to ``path`` if given."""
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> PruneVidConfig:
        """Return the config in a JSON file, or in JSON text that starts with a brace; see `from_dict`.

        Raises:
            ConfigError: the file is missing, the text is no JSON object, or an option is unknown or out of range.
        """
        text = str(source)
        if not text.lstrip().startswith("{"):
            path = Path(source)
            if not os.path.isfile(path):  # unlike Path.is_file, no error for a name that is too long
                raise ConfigError(f"no config file at {excerpt(str(path))}: pass a JSON file, or the name of a preset")
            text = path.read_text(encoding="utf-8")
        try:
            options = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"config {source!s:.80} is not JSON: {error}") from error
        if not isinstance(options, dict):
            raise ConfigError(f"a config is a JSON object of options, got {type(options).__name__}")
        return cls.from_dict(options)


def _choose(part: str, given: Any, enabled: Any) -> tuple[Any, type | None]:
    """Return a stage's options before flat names (None: off), and the class named for a stage that is off."""
    switch = _STAGES[part]
    if enabled is not _UNSET and not isinstance(enabled, bool):
        raise ConfigError(f"{switch} is True or False, got {quoted(enabled)}")
    if enabled is True and given is None:
        raise ConfigError(f"{part}=None turns the stage off, but {switch}=True turns it on: leave one out")
    if given is None:
        return None, None
    if given is _UNSET:
        return (None, None) if enabled is False else (_DEFAULTS[part](), None)
    if isinstance(given, str) or not dataclasses.is_dataclass(given):
        cls = options_class(part, given)
        given = None if enabled is False else cls()
        return given, cls
    name_of(part, given)  # refuses what belongs to no method
    return (None, type(given)) if enabled is False else (given, None)


def _compresses(selector: Any) -> bool:
    """Return the default of ``compress_cache`` for a selector."""
    return not getattr(selector, "merges_inside", False)


def _in_order(name: str, merger: Any, selector: Any) -> tuple[Any, Any]:
    return (selector, merger) if name == "keep_ratio" else (merger, selector)


def _unless(values: dict[str, Any], part: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the changes set anyhow: with it, values that belong together could contradict each other."""
    names = {"layers" if name == "pruning_layer" else name for name in (full.rpartition(".")[2] for full in changes)}
    return {name: value for name, value in values.items() if name not in names}


def _with_keep_ratio(options: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(options)
    if "pruning_rate" in options:
        if "keep_ratio" in options:
            raise ConfigError("keep_ratio and pruning_rate say the same thing twice: give keep_ratio alone")
        rate = options.pop("pruning_rate")
        if not is_number(rate) or not 0 <= rate < 1:
            meant = f"; did you mean {rate / 100:g}?" if is_number(rate) and 1 < rate < 100 else ""
            raise ConfigError(f"pruning_rate is the share removed, in [0, 1), got {quoted(rate)}{meant}")
        options["keep_ratio"] = 1.0 - rate
    return options
