"""``prunevid methods`` and ``prunevid new-method``: which methods there are, and a file to write one in."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.command import command
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.options import load_plugins
from prunevid_qwen.cli.output import Done, FileReporting, Reporting
from prunevid_qwen.config.option_classes import STAGES, classes_of, names_in
from prunevid_qwen.errors import ConfigError, quoted

_METHODS = """\
[bold]Examples[/bold]
  prunevid methods
  prunevid methods --plugin mine.py --json
  prunevid ask --selector fastv --help      the options of one
"""
_NEW = """\
[bold]Examples[/bold]
  prunevid new-method nearest
  prunevid new-method nearest --merger --out methods/nearest.py

The file answers from the first day, keeps the contract of all methods, and
says where to write your own: CONTRIBUTING.md has the rest.
"""
_EVIDENCE = {
    "attention": "the question's attention", "question": "the question's states", "vision": "the vision tower",
    "probe": "tokens sent along", "marks": "the caller's marks", "keys": "keys",
}  # fmt: skip
_SELECTOR = '''"""Selector "{name}": keeps equally spaced tokens of each video and image. `plan` is yours to change."""

from dataclasses import dataclass

import torch

from prunevid_qwen import Evidence, Needs, TokenMap, register


@dataclass(frozen=True)
class {cls}Options:
    keep_ratio: float = 0.5  # share kept of each video and image, in (0, 1]
    layers: tuple[int | float, ...] | None = None  # before which decoder layer; None: the depth's default


@register("{name}", {cls}Options)
@dataclass(frozen=True)
class {cls}({cls}Options):
    needs = Needs()  # what `plan` reads beyond the tokens' states: Needs(AttentionQuery()) for seen.attention

    def plan(self, seen: Evidence) -> TokenMap:
        kept = []
        for block in seen.layout.blocks:  # each video and image for itself, and at least one token of it
            size = block.stop - block.start
            count = max(1, int(size * self.keep_ratio))
            kept.append(block.start + torch.arange(count) * size // count)
        return TokenMap.keep(torch.cat(kept).to(seen.hidden.device), seen.hidden.shape[0])
'''
_MERGER = '''"""Merger "{name}": neighbouring tokens of each video become their mean. `plan` is yours to change."""

from dataclasses import dataclass

import torch

from prunevid_qwen import Evidence, Needs, TokenMap, register


@dataclass(frozen=True)
class {cls}Options:
    cluster_ratio: float = 0.5  # share left of each video, in (0, 1]


@register("{name}", {cls}Options, stage=1)
@dataclass(frozen=True)
class {cls}({cls}Options):
    needs = Needs()  # what `plan` reads beyond the tokens' states

    def why_unchanged(self, blocks) -> str | None:
        sizes = [block.stop - block.start for block in blocks if block.kind == "video"]
        merges = any(size > 1 and int(size * self.cluster_ratio) < size for size in sizes)
        return None if merges else "its share leaves every token"  # None: then `plan` has to change something

    def plan(self, seen: Evidence) -> TokenMap:
        group, first, made = [], [], 0  # to which new token each goes; whose position each new one takes
        for block in seen.layout.blocks:
            size = block.stop - block.start
            count = max(1, int(size * self.cluster_ratio)) if block.kind == "video" else size
            group.append(made + torch.arange(size) * count // size)
            first.append(block.start + (torch.arange(count) * size + count - 1) // count)
            made += count
        return TokenMap(torch.cat(group).to(seen.hidden.device), torch.cat(first).to(seen.hidden.device))
'''


def method_rows() -> list[dict[str, Any]]:
    """Return what is true of each registered method.

    Returns:
        Of each ``name``, ``stage`` (1 merges before the decoder, 2 selects inside it), ``paper`` ("arXiv 2412.16117",
        "" for a control), ``needs`` (what it looks at beyond the tokens' states), ``trained``, ``budget`` (the option
        that spends it), ``options`` (all of its own) and ``says`` (the first sentence of its options' docstring).
    """
    from prunevid_qwen.forward.plan import compile_plan  # noqa: F401  # registers the package's own
    from prunevid_qwen.reducer import made_by, needs_of

    rows = []
    for part, stage in STAGES.items():
        for name, cls in classes_of(part).items():
            said = " ".join((cls.__doc__ or "").split())
            needs = needs_of(made_by(cls(), stage))
            usual = next((each for each in ("cluster_ratio", "keep_ratio")[stage - 1 :] if each in names_in(cls)), "")
            paper = re.search(r"arXiv \d{4}\.\d{4,5}", said)
            needed = getattr(cls, "lever_needs", {})  # under which options the lever alone decides
            under = "".join(f" ({each}={str(value).lower()})" for each, value in needed.items())
            rows.append({
                "name": name, "stage": stage, "paper": paper[0] if paper else "",
                "needs": [text for field, text in _EVIDENCE.items() if getattr(needs, field, None)],
                "trained": bool(getattr(cls, "trained", False)),
                "budget": (getattr(cls, "lever", None) or usual) + under, "options": list(names_in(cls)),
                "says": re.split(r"(?<=[a-z)])\.(?: |$)", said)[0],
            })  # fmt: skip
    return rows


def methods(
    *,
    plugin: list[str] | None = opt(None, "Python file, or module, that registers methods of your own.", "FILE|MODULE"),
    output: FileReporting,
) -> Done:
    """List the methods: paper, stage, what each needs, whether it is trained, and the option that spends its budget."""
    load_plugins(plugin)
    rows = method_rows()

    def show() -> None:
        from prunevid_qwen.evaluation.report.page import Table

        cells = [
            (row["name"], "merger" if row["stage"] == 1 else "selector", row["paper"] or "none", row["budget"] or "-",
             "yes" if row["trained"] else "no", ", ".join(row["needs"]) or "-")
            for row in rows
        ]  # fmt: skip
        typer.echo(Table(("method", "stage", "paper", "budget", "trained", "looks at"), cells).terminal(keys=2))
        typer.echo("\nits options: prunevid ask --selector NAME --help, or --merger NAME")

    return Done({"methods": rows}, show)


def new_method(
    *,
    name: str = word(..., "NAME", "What configs and command lines will call it."),
    merger: bool = opt(False, "A merger, before the decoder, instead of a selector inside it."),
    out: Path | None = opt(None, "The file to write. Default: NAME.py.", "FILE.py"),
    output: Reporting,
) -> Done:
    """Write a file with a method of your own that works, for you to change."""
    part = "merger" if merger else "selector"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"a method's name is small letters, digits and _, a letter first; got {quoted(name)}")
    if name in classes_of(part):
        raise ConfigError(f"{part} {quoted(name)} is there already: choose another name (prunevid methods lists all)")
    path = out or Path(f"{name}.py")
    if path.exists():
        raise ConfigError(f"{path} is there already: name another file with --out")
    cls = "".join(each.capitalize() for each in name.split("_"))
    path.write_text((_MERGER if merger else _SELECTOR).format(name=name, cls=cls), encoding="utf-8")
    lines = [
        f"wrote {path}",
        f"try it: prunevid demo --plugin {path} --{part} {name}",
        f'check it: python -c "import {path.stem}; from prunevid_qwen import check_reducer; '
        f'check_reducer({path.stem}.{cls})"',
    ]
    return Done({"out": str(path), part: name}, lambda: typer.echo("\n".join(lines)))


def register_methods(app: typer.Typer) -> None:
    """Give the command line ``methods`` and ``new-method``."""
    command(app, "methods", _METHODS)(methods)
    command(app, "new-method", _NEW)(new_method)
