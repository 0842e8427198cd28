"""Controls for the options of a config's methods: made from the options themselves, so that a plug-in has its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

import prunevid_qwen.stage1_merge
import prunevid_qwen.stage2_select  # noqa: F401  # both register their methods
from prunevid_qwen.config import CHOICES, PruneVidConfig
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.config.option_classes import STAGES, classes_of
from prunevid_qwen.config.option_help import field_help
from prunevid_qwen.config.presets import PRESETS
from prunevid_qwen.config.typed import build_config, kinds_of
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.reducer import says

AS_PRESET, OFF = "as in the preset", "none"
_SWITCH = {"merger": "enable_stage1", "selector": "enable_stage2"}
_LEAST_SHARE = 0.01

Kind = Literal["share", "switch", "whole", "choice", "text"]


@dataclass(frozen=True)
class Control:
    """An option as a page shows it.

    Args:
        name: in full, such as "selector.keep_ratio".
        label: short.
        help: a sentence or two.
        kind: a share from 0.01 to 1, a switch, a whole number, one of ``choices``, or a value as it is typed.
        value: of the config.
        choices: words.
        budget: it sets how much is kept.
    """

    name: str
    label: str
    help: str
    kind: Kind
    value: Any
    choices: tuple[str, ...] = ()
    budget: bool = False


def methods_of(part: str) -> list[str]:
    """Return what a page offers for a stage: the preset's own, none, and each method that is not told what is right."""
    own = (name for name, cls in classes_of(part).items() if not says(cls(), STAGES[part]).told)
    return [AS_PRESET, OFF, *sorted(own)]


@dataclass(frozen=True)
class Choices:
    """What a page offers, and the config that is chosen from it.

    Args:
        config: the preset or file that the page begins with.
        given: options over every preset, such as those of the command line.
    """

    config: str = "paper"
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def presets(self) -> list[str]:
        """The names of the presets, the page's own first and the unpruned model last."""
        order = [self.config, *(name for name in PRESETS if name not in (self.config, "baseline")), "baseline"]
        return list(dict.fromkeys(order))

    def chosen(
        self, preset: str, merger: str = AS_PRESET, selector: str = AS_PRESET, changes: Mapping[str, Any] | None = None
    ) -> PruneVidConfig:
        """Return the config that the controls say; nothing is opened that is not offered.

        Args:
            preset: one of ``presets``.
            merger: one of `methods_of`.
            selector: one of `methods_of`.
            changes: values by the names of controls; those of a method that is no longer chosen are left out.

        Raises:
            ConfigError: a name that is not offered, or a value that its option does not take.
        """
        if preset not in self.presets:
            raise ConfigError(unknown("this page's presets are", preset, self.presets))
        parts: dict[str, Any] = {}
        for part, name in (("merger", merger), ("selector", selector)):
            if name not in methods_of(part):
                raise ConfigError(unknown(f"{part} is one of", name, methods_of(part)))
            if name == OFF:
                parts[_SWITCH[part]] = False
            elif name != AS_PRESET:
                parts[part] = name
        over = {**self.given, **parts}
        config = build_config(preset, over)
        names = {control.name for control in controls_of(config)}
        own = {name: value for name, value in (changes or {}).items() if name in names}
        return build_config(preset, {**over, **_of_levers(config, own), **own})


def controls_of(config: PruneVidConfig) -> list[Control]:
    """Return a control for each option of the config's methods, those of a budget first, and one for the frames.

    An option that takes any text has none: what a browser types is never a path.
    """
    found = [each for part in STAGES for each in _of_method(part, getattr(config, part))]
    frames = Control(
        "max_frames", "frames", "Frames sampled from a video at most.", "whole", config.flat()["max_frames"]
    )
    return [*sorted(found, key=lambda each: not each.budget), frames]


def _of_levers(config: PruneVidConfig, changes: Mapping[str, Any]) -> dict[str, str]:
    """Return what else is set where a budget is changed, so that it is the budget: a threshold is turned off."""
    found: dict[str, str] = {}
    for part, stage in STAGES.items():
        options = getattr(config, part)
        said = says(options, stage)
        if said.lever is not None and changes.get(f"{part}.{said.lever}") not in (None, getattr(options, said.lever)):
            found |= {f"{part}.{name}": _typed(value) for name, value in said.lever_needs.items()}
    return found


def _of_method(part: str, options: Any) -> Sequence[Control]:
    if options is None:
        return ()
    own, said, hints = says(options, STAGES[part]), dict(field_help(type(options))), get_type_hints(type(options))
    lever, needs = own.lever, ", ".join(f"{name} to {_typed(value)}" for name, value in own.lever_needs.items())
    if lever is not None and needs:
        said[lever] = f"{said.get(lever, '').rstrip('.')}. A change of it sets {needs}."
    return [
        _control(part, each.name, said.get(each.name, ""), hints[each.name], getattr(options, each.name), lever)
        for each in dataclasses.fields(options)
        if each.init and not _is_free_text(each.name, hints[each.name])
    ]


def _words(name: str, kind: Any) -> list[str]:
    words = [str(word) for each in kinds_of(kind) if get_origin(each) is Literal for word in get_args(each)]
    return words or list(CHOICES.get(name, ()))


def _is_free_text(name: str, kind: Any) -> bool:
    """Tell whether an option takes any text: that may be a path, and no path that a browser names is opened."""
    return str in kinds_of(kind) and not _words(name, kind)


def _control(part: str, name: str, text: str, kind: Any, value: Any, lever: str | None) -> Control:
    kinds, words = kinds_of(kind), _words(name, kind)
    budget = name == lever
    how: Kind = "text"
    if bool in kinds:
        how = "switch"
    elif words and str(value) in words:
        how = "choice"
    elif budget and isinstance(value, float) and _LEAST_SHARE <= value <= 1:
        how = "share"
    elif kinds == (int,):
        how = "whole"
    made = value if how != "text" else _typed(value)
    label = f"{part}: {name.replace('_', ' ')}"
    return Control(
        f"{part}.{name}", label, text[:1].upper() + text[1:].replace("`", ""), how, made, tuple(words), budget
    )


def _typed(value: Any) -> str:
    """Return a value as it would be typed on a command line."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(_typed, value))
    return "none" if value is None else str(value)
