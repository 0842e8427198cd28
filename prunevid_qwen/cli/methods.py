"""``prunevid methods`` and ``prunevid new-method``: which methods there are, and a file to write one in."""

from __future__ import annotations

from pathlib import Path

from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.output import Done, FileReporting, Reporting
from prunevid_qwen.cli.pruning_options import PLUGIN_HELP, PLUGIN_KIND, load_plugins
from prunevid_qwen.errors import ConfigError

EXAMPLES = """\
Examples:
  prunevid methods
  prunevid methods --plugin mine.py --json
  prunevid ask --selector fastv --help      the options of one
"""
OF_NEW = """\
Examples:
  prunevid new-method nearest
  prunevid new-method nearest --merger --out methods/nearest.py

The file answers from the first day, keeps the contract of all methods, and
says where to write your own: CONTRIBUTING.md has the rest.
"""


def methods(
    *,
    plugin: list[str] | None = opt(None, PLUGIN_HELP, PLUGIN_KIND),
    output: FileReporting,
) -> Done:
    """List the methods: paper, stage, what each needs, whether it is trained, and the option that spends its budget."""
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


def new_method(
    *,
    name: str = word(..., "NAME", "What configs and command lines will call it."),
    merger: bool = opt(False, "A merger, before the decoder, instead of a selector inside it."),
    out: Path | None = opt(None, "The file to write. Default: NAME.py.", "FILE.py"),
    force: bool = opt(False, "Write over a file that is there."),
    output: Reporting,
) -> Done:
    """Write a file with a method of your own that works, for you to change."""
    from prunevid_qwen.contract.method_template import method_file

    path = out or Path(f"{name}.py")
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already: name another file with --out, or pass --force to write over it")
    cls, text = method_file(name, merger)
    path.write_text(text, encoding="utf-8")
    part = "merger" if merger else "selector"
    lines = [
        f"wrote {path}",
        f"try it: prunevid demo --plugin {path} --{part} {name}",
        f'check it: python -c "import {path.stem}; from prunevid_qwen import check_reducer; '
        f'check_reducer({path.stem}.{cls})"',
    ]
    return Done({"out": str(path), part: name}, "\n".join(lines))
