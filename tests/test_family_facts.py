"""What is known of Qwen stands in `adapters` and in the rooms that read its files, read from the source.

A name of Qwen's in another room is a family that has to be told apart there, and the next family a second time.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layers import PACKAGE, TREES, room_of

# its adapter; its frontend, which reads files for it; what is made of its model or compares models
OF_FAMILIES = {"adapters", "bundled"}
OWN_FRONTENDS = {"inputs/qwen", "inputs/messages", "inputs/frontends"}
ABOVE = {"evaluation", "training", "cli", "moving_shapes"}
FACTS = re.compile(
    r"get_rope_index|rope_deltas|grid_thw|spatial_merge_size|tokens_per_second|second_per_grid_ts|mm_token_type_ids"
    r"|mrope|visual_pos_masks|deepstack_(visual|features)|\bqwen\d|^Qwen\d+\w*|(image|video)_token_id|vision_(start|end)_|<\|\w+\|>|full_attention"
)
# file -> which facts it may name, and why
EXCEPTIONS = {
    "inputs/prepared.py": (
        r"grid_thw|second_per_grid_ts|mm_token_type_ids",
        "inputs of the root, whatever a family calls them",
    ),
    "vision/tower.py": ("grid_thw", "stands in for calls of towers of Qwen's form, see `Adapter.tower_form`"),
    "vision/identical.py": ("grid_thw", "stands in for calls of towers, which are told grids by that name or none"),
}


def said(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names, attributes, arguments and strings of a file, without its docstrings."""
    docs = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docs |= {id(each.value) for each in node.body if isinstance(each, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value
        for field in ("id", "attr", "arg", "name"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield getattr(node, "lineno", 0), value
        if isinstance(node, ast.Attribute) and node.attr == "visual" and _owner(node.value) in ("model", "root"):
            yield node.lineno, "the tower of grid_thw"


def _owner(node: ast.AST) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))


def found(path: Path, tree: ast.AST) -> list[tuple[int, str]]:
    return [(line, fact.group()) for line, text in said(tree) if (fact := FACTS.search(text))]


def test_no_other_room_knows_qwen() -> None:
    wrong = []
    for path, tree in TREES.items():
        name = path.relative_to(PACKAGE).as_posix()
        place = "/".join(path.relative_to(PACKAGE).parts[:2]).removesuffix(".py")
        if room_of(path) in OF_FAMILIES | ABOVE or place in OWN_FRONTENDS:
            continue
        allowed = EXCEPTIONS.get(name, ("$^", ""))[0]
        wrong += [f"{name}:{line}: {fact}" for line, fact in found(path, tree) if not re.search(allowed, fact)]
    assert wrong == [], "ask the adapter, or the frontend"


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_needed(name: str) -> None:
    path = PACKAGE / name
    assert any(re.search(EXCEPTIONS[name][0], fact) for _, fact in found(path, TREES[path])), "take it off the list"
