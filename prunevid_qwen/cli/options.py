"""The options of pruning: made from those of `FlatOptions`, whose docstring is their help, and from full names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from prunevid_qwen.cli.full_names import FULL_NAMES
from prunevid_qwen.cli.option import Opt, Parameter
from prunevid_qwen.cli.values import field_help, kind_of, sentence, shown
from prunevid_qwen.config import CHOICES, FlatOptions, option_types
from prunevid_qwen.config.plugins import load_plugin
from prunevid_qwen.config.typed import FALSE, TRUE
from prunevid_qwen.errors import ConfigError, quoted

CONFIG_KIND = "PRESET|FILE.json"
PRESETS_HELP = (
    "paper, recommended (ours; loses fewer answers, and its prefill is slower), conservative (prunes less), aggressive "
    "(prunes more), stage1_only, reference (the authors' code), glimpse (GlimpsePrune, a trained predictor), fastv "
    "(FastV as published), baseline (no pruning), or a JSON file. Options beside it change it. Default: paper."
)
CONFIGS_HELP = (
    "Presets or JSON files, with commas between; NAME+OPTION=VALUE changes one of them, such as paper+keep_ratio=0.2. "
    "All answer about the same decoded videos."
)
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
_USED = ("selector", "keep_ratio", "max_frames")  # in --help; all others in --help-all
_PLUGIN = Opt(
    "Python file, or module, that registers methods of your own; it is run. Repeat it for several. Their options have "
    "full names: --selector.NAME VALUE.",
    "FILE|MODULE",
    rest=True,
)


@dataclass(frozen=True)
class Changes:
    """What was typed of pruning: options over a config, and plug-ins, which are loaded.

    Args:
        given: texts by flat and full name; None where nothing was typed.
        plugins: files and modules.
    """

    given: dict[str, Any]
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True)
class FlatNames:
    """An option for each flat name of a config, one for full names, and ``--plugin``.

    Args:
        without: flat names that the command does not have.
    """

    without: Collection[str] = ()

    def parameters(self) -> Iterable[Parameter]:
        """Return the options."""
        yield Parameter("plugin", list[str] | None, None, _PLUGIN)
        said, defaults, panel = field_help(FlatOptions), FlatOptions(), STAGE_1
        for name, kind in option_types().items():
            panel = _PANEL_OPENED_BY.get(name, panel)
            if name in self.without:
                continue
            text = f"{sentence(said.get(name, ''))} Default: {shown(getattr(defaults, name))}."
            switch, rest = kind is bool, name not in _USED
            metavar = None if switch else kind_of(kind, CHOICES.get(name, ()))
            own = Opt(text, metavar, panel, rest=rest, off=f"no_{name}" if switch else None)
            yield Parameter(name, bool | None if switch else str | None, None, own)
            if name == "keep_ratio":
                text = "Share removed instead of kept, in [0, 1): 1 - keep_ratio, never beside it."
                yield Parameter("pruning_rate", str | None, None, Opt(text, "FLOAT", panel, rest=True))
        yield Parameter(FULL_NAMES, list[str] | None, None, Opt("", hidden=True))

    def made(self, given: Mapping[str, Any]) -> Changes:
        """Load the plug-ins, and return what was typed."""
        values = dict(given)
        plugins = load_plugins(values.pop("plugin"))
        for each in values.pop(FULL_NAMES) or ():
            name, _, text = each.partition("=")
            values[name] = text
        return Changes(values, plugins)


PruningOptions = Annotated[Changes, FlatNames()]


def load_plugins(sources: list[str] | None) -> tuple[str, ...]:
    """Load what ``--plugin`` names, and return its names."""
    for source in sources or ():
        load_plugin(source)
    return tuple(sources or ())


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
        if not equals and rest and rest[0].lower() in TRUE + FALSE:
            value = rest.pop(0)
        if value and value.lower() not in TRUE + FALSE:
            raise ConfigError(f"{name} is true or false, got {quoted(value)}")
        spelt.append(f"--no_{name}" if value.lower() in FALSE else f"--{name}")
    return spelt
