"""``prunevid methods``, ``new-method`` and ``config``: which methods and configs there are, and files of one's own."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from prunevid_qwen.cli.option import opt, shown, word
from prunevid_qwen.cli.output import Done, FileReporting, Reporting, check_config_file, write
from prunevid_qwen.cli.pruning_options import CONFIG_KIND, PLUGIN, PRESETS_HELP, PruningOptions, load_plugins
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import ConfigError


def methods(*, plugin: list[str] | None = PLUGIN, output: FileReporting) -> Done:
    """List the methods: paper, stage, what each needs, whether it is trained, and the option that spends its budget.

    Examples:
      prunevid methods
      prunevid methods --plugin mine.py --json
      prunevid ask --selector fastv --help      the options of one
    """
    load_plugins(plugin)
    from prunevid_qwen.contract.listing import method_rows
    from prunevid_qwen.evaluation.report.page import Table

    rows = method_rows()
    cells = [
        (row["name"], "merger" if row["stage"] == 1 else "selector", row["paper"] or "none", row["budget"] or "-",
         "yes" if row["trained"] else "no", ", ".join(row["needs"]) or "-")
        for row in rows
    ]  # fmt: skip
    table = Table(("method", "stage", "paper", "budget", "trained", "looks at"), cells).terminal(keys=2)
    return Done({"methods": rows}, f"{table}\n\nits options: prunevid ask --selector NAME --help, or --merger NAME")


def models(*, output: FileReporting) -> Done:
    """List the families of models: what each accepts, who makes its inputs, and where its tokens can be cut.

    Examples:
      prunevid models
      prunevid models --json        also the presets that a family refuses, and why
    """
    from prunevid_qwen.evaluation.report.page import Table
    from prunevid_qwen.inputs.family_rows import HEAD, family_cells, family_rows

    rows = family_rows()
    table = Table(HEAD, list(map(family_cells, rows))).terminal(keys=1)
    return Done({"families": rows}, f"{table}\n\na model's family is the model_type in its config.json")


def new_method(
    *,
    name: str = word(..., "NAME", "What configs and command lines will call it."),
    merger: bool = opt(False, "A merger, before the decoder, instead of a selector inside it."),
    out: Path | None = opt(None, "The file to write. Default: NAME.py.", "FILE.py"),
    force: bool = opt(False, "Write over a file that is there."),
    output: Reporting,
) -> Done:
    """Write a file with a method of your own that works, for you to change.

    Examples:
      prunevid new-method nearest
      prunevid new-method nearest --merger --out methods/nearest.py

    The file answers from the first day, keeps the contract of all methods, and
    says where to write your own: CONTRIBUTING.md has the rest.
    """
    from prunevid_qwen.contract.method_template import method_file

    path = out or Path(f"{name}.py")
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already: name another file with --out, or pass --force to write over it")
    cls, text = method_file(name, merger)
    write(path, text)
    part = "merger" if merger else "selector"
    where = "" if path.parent == Path() else f"PYTHONPATH={shlex.quote(str(path.parent))} "
    check = f"import {path.stem}; from prunevid_qwen import check_reducer; check_reducer({path.stem}.{cls})"
    lines = [f"wrote {path}", f"try it: prunevid demo --plugin {path} --{part} {name}"]
    return Done({"out": str(path), part: name}, "\n".join([*lines, f'check it: {where}python -c "{check}"']))


def show(
    *, preset: str = word("paper", CONFIG_KIND, PRESETS_HELP), output: FileReporting, pruning: PruningOptions
) -> Done:
    """Show every option of a preset or a file, by its full name.

    Examples:
      prunevid config show recommended
      prunevid config show paper --selector fastv --json
    """
    config = build_config(preset, pruning.given)
    lines = [f"{name} {shown(value)}" for name, value in _flat(config).items()]
    return Done(json.loads(config.to_json()), "\n".join(lines))


def diff(
    *,
    first: str = word(..., "PRESET|FILE", "One config."),
    second: str = word(..., "PRESET|FILE", "The other."),
    output: FileReporting,
) -> Done:
    """Show the options in which two presets or files differ.

    Examples:
      prunevid config diff paper recommended
      prunevid config diff paper mine.json
    """
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
    """Write a preset, with the options beside it, as a file that --config takes.

    Examples:
      prunevid config save paper --keep_ratio 0.2 --out mine.json
      prunevid ask ... --config mine.json
    """
    config = build_config(preset, pruning.given)
    check_config_file(out, force)
    write(out, config.to_json())
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
