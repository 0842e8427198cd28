"""``prunevid config``: the options of a preset, how two differ, and a file of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prunevid_qwen.cli.option import opt, shown, word
from prunevid_qwen.cli.output import Done, FileReporting, Reporting
from prunevid_qwen.cli.pruning_options import CONFIG_KIND, PRESETS_HELP, PruningOptions
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import ConfigError

OF_SHOW = """\
Examples:
  prunevid config show recommended
  prunevid config show paper --selector fastv --json
"""
OF_DIFF = """\
Examples:
  prunevid config diff paper recommended
  prunevid config diff paper mine.json
"""
OF_SAVE = """\
Examples:
  prunevid config save paper --keep_ratio 0.2 --out mine.json
  prunevid ask ... --config mine.json
"""


def show(
    *, preset: str = word("paper", CONFIG_KIND, PRESETS_HELP), output: FileReporting, pruning: PruningOptions
) -> Done:
    """Show every option of a preset or a file, by its full name."""
    config = build_config(preset, pruning.given)
    lines = [f"{name} {shown(value)}" for name, value in _flat(config).items()]
    return Done(json.loads(config.to_json()), "\n".join(lines))


def diff(
    *,
    first: str = word(..., "PRESET|FILE", "One config."),
    second: str = word(..., "PRESET|FILE", "The other."),
    output: FileReporting,
) -> Done:
    """Show the options in which two presets or files differ."""
    from prunevid_qwen.evaluation.report.page import Table

    one, two = (_flat(build_config(each, {})) for each in (first, second))
    both = {name: [one.get(name, "-"), two.get(name, "-")] for name in {**one, **two}}
    told = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    rows = [(name, *map(shown, pair)) for name, pair in told.items()]
    text = Table(("option", first, second), rows).terminal() if rows else "the same options"
    return Done({"first": first, "second": second, "differ": told}, text)


def save(
    *,
    preset: str = word("paper", CONFIG_KIND, PRESETS_HELP),
    out: Path = opt(..., "The file to write.", "FILE.json"),
    force: bool = opt(False, "Write over a file that is there."),
    output: Reporting,
    pruning: PruningOptions,
) -> Done:
    """Write a preset, with the options beside it, as a file that --config takes."""
    config = build_config(preset, pruning.given)
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already: name another file, or pass --force to write over it")
    if out.suffix != ".json" or not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out} is a .json file to write, in a folder that exists")
    config.to_json(out)
    return Done({"out": str(out)}, f"wrote {out}; use it: prunevid ask ... --config {out}")


def _flat(config: PruneVidConfig) -> dict[str, Any]:
    """Return the options by full name; a part that is off says so."""
    found: dict[str, Any] = {}
    for part, own in config.to_dict().items():
        if isinstance(own, dict):
            found |= {part if name == "name" else f"{part}.{name}": value for name, value in own.items()}
        elif part != "format":
            found[part] = "off" if own is None else own
    return found
