"""The options of pruning: the flat names of `FlatOptions`, and full names such as ``--selector.layers 2``."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from prunevid_qwen.cli.option import Group, Option, documented, opt
from prunevid_qwen.config import CHOICES, FlatOptions, option_types
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_classes import STAGES, classes_of, names_in, options_class
from prunevid_qwen.config.plugins import load_plugin
from prunevid_qwen.config.typed import FALSE, PARTS, TRUE
from prunevid_qwen.errors import ConfigError, quoted

FULL_NAMES = "full_names"
"""The hidden option, taken any number of times, that carries each full name and its value to a command."""
CONFIG_KIND = "PRESET|FILE.json"
PRESETS_HELP = (
    "paper, recommended (ours; a fifth of the tokens, chosen on our toys), fast (recommended, and what "
    "stands still is not encoded again), recommended_2026_11 (the recommended before it), conservative (prunes less), "
    "aggressive (prunes more), stage1_only, reference (the authors' code), glimpse (GlimpsePrune, a trained "
    "predictor), fastv (FastV as published), baseline (no pruning), a method's name (that method alone), or a JSON "
    "file. Options beside it change it. Default: paper."
)
CONFIGS_HELP = (
    "Presets, methods or JSON files, with commas between; NAME+OPTION=VALUE changes one of them, such as "
    "paper+keep_ratio=0.2. All answer about the same decoded videos."
)
_PLUGIN = (
    "Python file, or module, that registers methods, with options --selector.NAME; it is run. Repeat it for several."
)
PLUGIN: Any = opt(None, _PLUGIN, "FILE|MODULE")
CONFIG: Any = opt("paper", PRESETS_HELP, CONFIG_KIND)
SAMPLING = "Reading the video"
# The panel in --help that a field opens; the fields after it, in the dataclass's order, stand in the same one.
_PANEL_OPENED_BY = {
    "enable_stage1": "Stage 1: merge before the decoder",
    "enable_stage2": "Stage 2: keep what the question attends to",
    "enable_cache_compression": "Stage 3 and positions",
    "max_frames": SAMPLING,
}
_USED = ("selector", "keep_ratio", "max_frames")  # in --help; all others in --help-all
_SWITCHES = frozenset(name for name, kind in option_types().items() if kind is bool)


@dataclass(frozen=True)
class Changes:
    """What was typed of pruning: texts by flat and full name, None where nothing was; and plug-ins, already loaded."""

    given: dict[str, Any]
    plugins: tuple[str, ...] = ()


def pruning_group(without: Collection[str] = ()) -> Group:
    """Return an option for each flat name of a config but some, one for full names, and ``--plugin``."""
    options = [Option(_PLUGIN, "FILE|MODULE", rest=True, name="plugin", type=list[str] | None)]
    panel = ""
    for each in documented(FlatOptions, "", choices=CHOICES).options:
        panel = _PANEL_OPENED_BY.get(each.name, panel)
        if each.name not in without:
            options.append(replace(each, panel=panel, rest=each.name not in _USED))
        if each.name == "keep_ratio":
            text = "Share removed instead of kept, in [0, 1): 1 - keep_ratio, never beside it."
            options.append(Option(text, "FLOAT", panel, rest=True, name="pruning_rate"))
    options.append(Option("", hidden=True, name=FULL_NAMES, type=list[str] | None))

    def made(given: Mapping[str, Any]) -> Changes:
        values = {each.name: given[each.name] for each in options}
        plugins = load_plugins(values.pop("plugin"))
        full = [each.split("=", 1) for each in values.pop(FULL_NAMES) or ()]
        return Changes({**values, **dict(full)}, plugins)

    return Group(options, made)


PruningOptions = Annotated[Changes, pruning_group()]


def load_plugins(sources: Sequence[str] | None) -> tuple[str, ...]:
    """Load what ``--plugin`` names, and return its names."""
    for source in sources or ():
        load_plugin(source)
    return tuple(sources or ())


def spelt_out(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the words of a command line as typer reads them, and the full names with their values, taken out.

    ``--enable_stage1 false`` becomes ``--no_enable_stage1``: people who set it in Python or JSON write a value.

    Raises:
        ConfigError: a full name has no value, or a switch has one that is neither true nor false.
    """
    spelt: list[str] = []
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*spelt, word, *rest], found
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if option.startswith("--") and name in _SWITCHES:
            if not equals and rest and rest[0].lower() in TRUE + FALSE:
                value = rest.pop(0)
            if value and value.lower() not in TRUE + FALSE:
                raise ConfigError(f"{name} is true or false, got {quoted(value)}")
            spelt.append(f"--no_{name}" if value.lower() in FALSE else f"--{name}")
        elif option.startswith("--") and name.partition(".")[0] in PARTS and "." in name:
            if not equals and (not rest or rest[0].startswith("--")):
                raise ConfigError(f"{option} needs a value, such as {option} 2")
            found[name] = value if equals else rest.pop(0)
        else:
            spelt.append(word)
    return spelt, found


def full_names_of_each() -> list[str]:
    """Return a line for each registered method, and for reading: which options it has."""
    methods = [(f"{part} {method}", cls) for part in STAGES for method, cls in classes_of(part).items()]
    return [f"{name}: {', '.join(names_in(cls))}" for name, cls in [*methods, ("reading", Reading)]]


def typed_of(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of ``--plugin``, ``--merger`` and ``--selector``, which say which methods there are."""
    typed: dict[str, list[str]] = {name: [] for name in ("plugin", *STAGES)}
    for word, after in zip(words, [*words, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        if option.startswith("--") and option[2:] in typed and (equals or after):
            typed[option[2:]].append(value if equals else after)
    return typed


def offered(option: str, typed: Mapping[str, list[str]]) -> list[str]:
    """Return the full names that may be meant by an option that a command does not have, such as ``--distance``.

    They are those of that very name, of the methods that were typed (see `typed_of`) before all others, which stand
    behind what would choose them; else similar ones of the methods that were typed. Typed plug-ins are loaded.
    """
    load_plugins(typed["plugin"])
    asked = option.replace("-", "_").rpartition("." if "." in option else "__")[2]
    full = {f"--reading.{name}": name for name in names_in(Reading)}
    for part, method, cls in [(stage, *each) for stage in STAGES for each in classes_of(stage).items()]:
        chooses = "" if method in typed[part] else f"--{part} {method} "
        full |= {f"{chooses}--{part}.{name}": name for name in names_in(cls)}
    exact = [each for each, name in full.items() if name == asked]
    here = [each for each in full if " " not in each and difflib.get_close_matches(asked, [full[each]])]
    return [each for each in exact if each in here] or exact or here


def method_panels(typed: Mapping[str, list[str]]) -> dict[str, list[tuple[str, str]]]:
    """Return the options of each method that was typed: (full name and kind of value, help), by a title."""
    load_plugins(typed["plugin"])
    panels = {}
    for part, name in [(each, name) for each in STAGES for name in typed[each][-1:]]:
        cls = options_class(part, name)
        choices = CHOICES if issubclass(cls, MethodOptions) else {}
        own = documented(cls, "", choices=choices).options
        lines = [(f"--{part}.{each.name} {each.kind or 'true|false'}", each.text) for each in own]
        panels[f"Options of {part} {name}"] = lines
    return panels
