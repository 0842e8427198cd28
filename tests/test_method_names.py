"""No code outside a method asks for its name: what differs between methods they say themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import prunevid_qwen.stage1_merge
import prunevid_qwen.stage2_select
from prunevid_qwen.reducer import registered

PACKAGE = Path(prunevid_qwen.__file__).parent
NAMES = {*registered(1), *registered(2)}
METHODS = (
    "config/mergers.py",
    "config/method_options",
    "config/methods.py",
    "stage1_merge",
    "stage2_select",
)  # where a method is
LOOKS_UP = {"get", "startswith", "endswith", "index"}

# file -> why what it asks for is no method, or why it may ask
STAYS = {
    "config/presets.py": "the name of a preset",
    "config/media_reading.py": "how frames are sampled: uniformly",
    "video/sampling.py": "how frames are sampled: uniformly",
    "evaluation/protocol/scorers.py": "what a harness does with an answer that it cannot read: draw one",
    "evaluation/protocol/score_summary.py": "what a harness does with an answer that it cannot read: draw one",
    "training/glimpse_plus/train.py": "a folder of a training run",
    "app/from_server.py": "the part of an answer that only this server's API has",
    "serve/http_app.py": "the part of an answer that only this server's API has",
    "serve/watching.py": "the part of an answer that only this server's API has",
    "cli/app.py": "the command `train glimpse`",
    "cli/train.py": "a folder of a training run",
    "training/glimpse_plus/plus_summary.py": "colours of curves",
}


def asks(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each comparison with the name of a method, or look-up by one, written out or through a constant of the file."""
    constants = {
        target.id: held(node.value)
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }

    def of(*nodes: ast.AST) -> set[str]:
        names = (node.id for each in nodes for node in ast.walk(each) if isinstance(node, ast.Name))
        return set().union(*map(held, nodes), *(constants.get(name, set()) for name in names))

    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found = of(node)
        elif isinstance(node, ast.Subscript):
            found = of(node.slice, node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOOKS_UP:
            found = of(*node.args, node.func.value)
        elif isinstance(node, ast.match_case):
            found = of(node.pattern)
        else:
            continue
        if found:
            yield getattr(node, "lineno", 0), f"{ast.unparse(node)[:80]} ({', '.join(sorted(found))})"


def held(node: ast.AST) -> set[str]:
    return {
        each.value
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value in NAMES
    }


def test_nobody_asks_for_the_name_of_a_method() -> None:
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(METHODS):
            for line, what in asks(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault(name, []).append(f"{name}:{line}: {what}")
    new = [line for name, lines in found.items() if name not in STAYS for line in lines]
    assert not new, "\n".join(["let the method say it, see MethodOptions:", *new])
    assert set(STAYS) - set(found) == set(), "asks no more: take it off the list"


def test_asking_is_seen_in_every_form() -> None:
    for line in (
        'a == "fastv"', 'a in ("rlt", "pool")', "a in KNOWN", 'b["dpp"]', 'b.get("dpp", 1)', "KNOWN[0]",
        'match a:\n    case "fastv":\n        pass', 'a.startswith("fastv")',
    ):  # fmt: skip
        assert list(asks(ast.parse(f'KNOWN = ("fastv", "b")\n{line}'))), line
    for line in ('a = "fastv"', 'f("fastv")', 'a == "fast"'):
        assert not list(asks(ast.parse(line))), line
