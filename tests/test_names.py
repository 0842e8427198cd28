"""One word, one thing: no two files of one name in the package, and no two classes, but for those that say why.

A file may be called as the folder that it stands in. Files of ``cli`` are called after their commands, files of
``config/method_options`` after their methods. Names of types (``Row = dict[str, Any]``) count where they stand for
different types.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "prunevid_qwen"

# name -> where it stands, and why it means one thing in all of these places (or why it cannot be helped)
FILES: dict[str, tuple[str, str]] = {
    "estimate": ("evaluation, evaluation/published", "before it is run: what a prompt takes, and a run of a table"),
    "glimpse": ("stage2_select, training", "a method has its paper's name wherever it stands"),
    "holitom": ("stage1_merge, stage2_select", "a method has its paper's name wherever it stands"),
    "llava": ("adapters, adapters/tiny", "a family, and its tiny model"),
    "methods": ("config, evaluation/shapes", "their options, and the list of those that the benchmark compares"),
    "model": ("adapters/tiny, evaluation/lmms_plugin, prunevid_qwen", "the API's, what lmms-eval calls so, a tiny one"),
    "pictures": ("prunevid_qwen, training/glimpse", "drawn of what was kept, and read to train on"),
    "plan": ("forward, vision", "what is decided ahead: the steps of a forward, and the units that are encoded"),
    "prunevid": ("stage1_merge, stage2_select", "a method has its paper's name wherever it stands"),
    "qwen": ("adapters/tiny, inputs", "tiny models of these families, and what their files and prompts are"),
    "random": ("stage1_merge, stage2_select", "one control, in stage 1 and in stage 2"),
    "recipe": ("training/glimpse, training/glimpse_plus", "the same part of two trainings"),
    "train": ("training/glimpse, training/glimpse_plus", "the same part of two trainings"),
    "uniform": ("stage1_merge, stage2_select", "one control, in stage 1 and in stage 2"),
    "windows": ("adapters, vision", "the order of tokens in the vision tower's windows, and the windows' attention"),
    "vision": ("adapters, prunevid_qwen", "the vision encoder: its calls, and all that saves its work"),
    "vscan": ("stage1_merge, stage2_select", "a method has its paper's name wherever it stands"),
}
CLASSES: dict[str, tuple[str, str]] = {
    "Answer": ("answers, evaluation/engine", "the answer to a question, and to a task of a benchmark"),
    "CurveLine": ("training/glimpse, training/glimpse_plus", "a line of a training's curve"),
    "Method": ("evaluation/shapes, receipt", "a receipt's table is called after the thing that it is about"),
    "Progress": (
        "evaluation/store, inputs, training/glimpse",
        "told how far something is, and its name where it is one of several",
    ),
    "Video": ("receipt, video", "a receipt's table is called after the thing that it is about"),
}

CALLED_AFTER_OTHERS = ("cli", "config/method_options")  # folders whose files have the names of commands and methods

Places = dict[str, set[str]]


def files_of(package: Path) -> Places:
    """Folders in which a file or package of each name stands."""
    found: Places = defaultdict(set)
    for path in package.rglob("*.py"):
        name, folder = (path.stem, path.parent) if path.name != "__init__.py" else (path.parent.name, path.parents[1])
        place = folder.relative_to(package.parent).as_posix().removeprefix(f"{package.name}/")
        if place not in CALLED_AFTER_OTHERS and not (path.name != "__init__.py" and name == folder.name):
            found[name].add(place)
    return {name: places for name, places in found.items() if len(places) > 1}


def classes_of(package: Path) -> Places:
    """Folders in which a class, or a name for a type, of each name is defined; one type under one name counts once."""
    found: dict[str, dict[str, str]] = defaultdict(dict)  # name -> file -> what it is
    for path in package.rglob("*.py"):
        file = path.relative_to(package).as_posix()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found[node.name][file] = file
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if name[0].isupper() and not name.isupper():
                    found[name][file] = ast.unparse(node.value)
    return {
        name: {file.rpartition("/")[0] or package.name for file in places}
        for name, places in found.items()
        if len(set(places.values())) > 1
    }


def complaints(found: Places, allowed: dict[str, tuple[str, str]]) -> list[str]:
    """Lines for the table: of names that are not in it, stand elsewhere too, or no longer collide."""
    listed = {name: set(places.split(", ")) for name, (places, _) in allowed.items()}
    wrong = [f'"{name}": ("{", ".join(sorted(places))}", "why"),' for name, places in sorted(found.items())
             if listed.get(name) != places]  # fmt: skip
    return [*wrong, *(f"{name!r} is one thing now: take it off the table" for name in listed if name not in found)]


@pytest.mark.parametrize(("found", "allowed"), [(files_of, FILES), (classes_of, CLASSES)], ids=["files", "classes"])
def test_a_name_stands_for_one_thing(found: object, allowed: dict[str, tuple[str, str]]) -> None:
    assert callable(found)
    wrong = complaints(found(PACKAGE), allowed)
    assert not wrong, "\n".join(["rename one, or say why not in the table of this file:", *wrong])


def test_collisions_are_seen(tmp_path: Path) -> None:
    texts = {
        "one/__init__.py": "", "two/__init__.py": "", "one/run.py": "class Row: ...", "two/run.py": "class Row: ...",
        "one/one.py": "Line = list[int]\nCAP = 3", "two/plan.py": "Line = list[int]\nCAP = 4\nMark = int",
        "two/one/__init__.py": "Mark = str", "cli/plan.py": "",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / name).write_text(text, encoding="utf-8")
    files, classes = files_of(tmp_path / "package"), classes_of(tmp_path / "package")
    assert files == {"run": {"one", "two"}, "one": {"package", "two"}}
    assert classes == {"Row": {"one", "two"}, "Mark": {"two", "two/one"}}
    assert complaints(files, {"run": ("one, two", ""), "one": ("package", "")}) == ['"one": ("package, two", "why"),']
    assert len(complaints({}, {"run": ("one, two", "")})) == 1
