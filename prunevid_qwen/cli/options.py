"""Options of the command line made from those of `FlatOptions`: names, defaults and help from that one place."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from prunevid_qwen import config as options
from prunevid_qwen.cli.full_names import FULL_NAMES, typed_values
from prunevid_qwen.config import FlatOptions, PruneVidConfig, get_config, option_types
from prunevid_qwen.errors import ConfigError, quoted

STAGE_1 = "Stage 1: merge before the decoder"
STAGE_2 = "Stage 2: keep what the question attends to"
STAGE_3 = "Stage 3 and positions"
SAMPLING = "Reading the video"
# The panel in --help that a field opens; the fields after it, in the dataclass's order, stand in the same one.
_PANEL_OPENED_BY = {
    "enable_stage1": STAGE_1,
    "enable_stage2": STAGE_2,
    "enable_cache_compression": STAGE_3,
    "max_frames": SAMPLING,
}
_FULL = inspect.Parameter(
    FULL_NAMES,
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[list[str] | None, typer.Option(f"--{FULL_NAMES}", hidden=True)],
)
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def field_help(cls: type) -> dict[str, str]:
    """Return the sentence that a class docstring's ``Args:`` section says of each name."""
    section = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")[2]
    said: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        entry = re.match(r" {4}(\w+): (.*)", line)
        if entry:
            name, said[entry[1]] = entry[1], entry[2]
        elif line.startswith(" " * 8) and name:
            said[name] += " " + line.strip()
        elif line.strip():
            break
    return said


def takes_config_options(
    command: Callable[..., Any],
    then: Callable[[Any], Any] = lambda result: result,
    without: Collection[str] = (),
    more: Sequence[inspect.Parameter] = (),
) -> Callable[..., Any]:
    """Give a command whose last parameter is ``**options`` an option for every flat name of a config.

    Args:
        command: keyword parameters annotated as typer wants them, then ``**options``.
        then: applied to what the command returns.
        without: options that it shall not have.
        more: further options of the command, shown before them.
    """
    signature = inspect.signature(command, eval_str=True)
    fixed = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]

    def entry(**values: Any) -> Any:
        for each in values.pop(FULL_NAMES) or ():
            name, _, text = each.partition("=")
            values[name] = text
        return then(command(**values))

    entry.__name__, entry.__doc__ = command.__name__, command.__doc__
    own = [parameter for parameter in _config_parameters() if parameter.name not in without]
    entry.__signature__ = inspect.Signature([*fixed, *more, *own, _FULL])  # type: ignore[attr-defined]
    return entry


def _config_parameters() -> list[inspect.Parameter]:
    said, defaults, panel = field_help(FlatOptions), FlatOptions(), STAGE_1
    made = []
    for name, kind in option_types().items():
        panel = _PANEL_OPENED_BY.get(name, panel)
        made.append(_parameter(name, kind, getattr(defaults, name), said.get(name, ""), panel))
        if name == "keep_ratio":
            text = "share removed instead of kept, in [0, 1): 1 - keep_ratio, never beside it."
            made.append(_parameter("pruning_rate", float, None, text, panel))
    return made


def _parameter(name: str, kind: Any, default: Any, text: str, panel: str) -> inspect.Parameter:
    shown = str(default).lower() if default is None or isinstance(default, bool) else str(default)
    text = text[:1].upper() + text[1:].replace("``", "")
    common: dict[str, Any] = {"help": text, "rich_help_panel": panel}
    if name != "pruning_rate":
        common["help"] += f" Default: {shown}."
    if kind is bool:
        annotation: Any = Annotated[bool | None, typer.Option(f"--{name}/--no_{name}", **common)]
    else:
        annotation = Annotated[str | None, typer.Option(f"--{name}", metavar=_metavar(name, kind), **common)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _metavar(name: str, kind: Any) -> str:
    if name in options.CHOICES:
        return "|".join(options.CHOICES[name])
    if kind is str:
        return "NAME"
    return "|".join("none" if part is type(None) else part.__name__.upper() for part in get_args(kind) or (kind,))


def build_config(base: str, given: dict[str, Any]) -> PruneVidConfig:
    """Return the preset or JSON file ``base`` with the options that were given on top.

    Raises:
        ConfigError: an unknown preset, a value that is no number, or one out of its range.
    """
    kinds = {**option_types(), "pruning_rate": float}
    said = {name: text for name, text in given.items() if text is not None}
    changes = {name: option_value(name, text, kinds[name]) for name, text in said.items() if "." not in name}
    config = get_config(base)
    return config.replace(**changes, **typed_values(config, said))


def named_config(base: str, given: dict[str, Any]) -> tuple[str, PruneVidConfig]:
    """Return a config under a name that says how it differs from the preset or file of that name."""
    changed = [f"{name}={value}" for name, value in given.items() if value is not None]
    name = Path(base).stem if base.endswith(".json") else base
    if name == "baseline" != base:  # a file of that name is no baseline
        name = base
    whole = name if name == "baseline" else " ".join([name, *changed])
    return whole, build_config(base, given)


def option_value(name: str, text: Any, kind: Any) -> Any:
    """Read an option's text as the type of its field: a number, a name, or ``none`` where that is allowed."""
    kinds = get_args(kind) or (kind,)
    if not isinstance(text, str) or str in kinds:
        return text
    if type(None) in kinds and text.lower() == "none":
        return None
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                continue
    words = {int: "a whole number", float: "a number", type(None): "none"}
    wanted = " or ".join(words[part] for part in (int, float, type(None)) if part in kinds)
    raise ConfigError(f"{name} is {wanted}, got {quoted(text)}")


def spell_out_booleans(arguments: list[str]) -> list[str]:
    """Turn ``--enable_stage1 false`` and ``--enable_stage1=false`` into ``--no_enable_stage1``, and the like for true.

    A switch takes no value, but people who set it in Python or JSON write one.
    """
    switches = {name for name, kind in option_types().items() if kind is bool}
    spelt: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*spelt, word, *rest]
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or name not in switches:
            spelt.append(word)
            continue
        if not equals and rest and rest[0].lower() in _TRUE + _FALSE:
            value = rest.pop(0)
        if value and value.lower() not in _TRUE + _FALSE:
            raise ConfigError(f"{name} is true or false, got {quoted(value)}")
        spelt.append(f"--no_{name}" if value.lower() in _FALSE else f"--{name}")
    return spelt
