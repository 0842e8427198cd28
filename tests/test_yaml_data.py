"""YAML files as dataclasses: what comes out, and where an error points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.yaml_data import Marked, read_as, read_yaml


@dataclass(frozen=True)
class Part:
    share: float
    kind: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ConfigError(f"share is at most 1, got {self.share}")


@dataclass(frozen=True)
class Whole:
    title: str
    parts: Mapping[str, Part]
    counts: tuple[int, ...] = ()
    limit: int | None = 3
    either: str | tuple[str, ...] = ""
    one: Part | None = None
    free: Any = None


GOOD = """\
# a comment
title: "a: b"
parts:
  all: &all {share: 1, kind: max}
  yes:
    <<: *all
    share: 0.5
counts: [1, 2]
limit:
either: [x, y]
one: *all
free: {a: [1, {b: 2}]}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_have_the_types_of_the_fields(tmp_path: Path) -> None:
    whole = read_as(written(tmp_path, GOOD), Whole)
    assert whole.parts == {"all": Part(1.0, "max"), "yes": Part(0.5, "max")} and whole.one == Part(1.0, "max")
    assert isinstance(whole.parts["all"].share, float)
    assert (whole.title, whole.counts, whole.limit, whole.either) == ("a: b", (1, 2), None, ("x", "y"))
    assert whole.free == {"a": [1, {"b": 2}]}


def test_places_are_lines_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    found = read_yaml(path)
    assert found.value["counts"] == Marked([Marked(1, f"{path}:8"), Marked(2, f"{path}:8")], f"{path}:8")
    assert found.value["parts"].value["yes"].value["share"].where == f"{path}:7"


@pytest.mark.parametrize(
    ("now", "then", "line", "said"),
    [
        ("title:", "tilte:", 2, ["'tilte'", "'title'"]),
        ('title: "a: b"\n', "", 2, ["'title'"]),
        ("[1, 2]", "[1, two]", 8, ["a whole number", "'two'"]),
        ("[1, 2]", "[1, true]", 8, ["a whole number", "True"]),
        ("[1, 2]", "1", 8, ["a list", "1"]),
        ("share: 0.5", "share: 2", 7, ["at most 1", "2.0"]),
        ("share: 0.5", "share: half", 7, ["a number", "'half'"]),
        ("kind: max", "kind: min", 4, ["mean, max", "'min'"]),
        ("either: [x, y]", "either: 3", 10, ["got 3"]),
        ("    share: 0.5", "    share: 1\n  no: {kind: max}", 8, ["'share'"]),
        ("counts: [1, 2]", "counts: *all", 8, ["a list", "a mapping"]),
        ("counts: [1, 2]", "counts: [1, *all]", 8, ["a whole number", "a mapping"]),
        ("counts: [1, 2]", "counts:\n  1", 8, ["a list", "1"]),
        ("one: *all", "one: 3", 11, ["a mapping", "got 3"]),
        ("one: *all", "one: *some", 11, ["not YAML"]),
        ("limit:", "title: twice", 9, ["'title'", "twice"]),
        ("counts: [1, 2]", "counts: [1, 2", 9, ["not YAML"]),
    ],
)
def test_errors_name_the_line_and_what_is_expected(
    now: str, then: str, line: int, said: list[str], tmp_path: Path
) -> None:
    assert now in GOOD
    path = written(tmp_path, GOOD.replace(now, then))
    with pytest.raises(ConfigError) as error:
        read_as(path, Whole)
    assert str(error.value).startswith(f"{path}:{line}") and all(each in str(error.value) for each in said)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"a: \x07"])
def test_a_file_that_is_no_yaml_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as error:
        read_as(path, Whole)
    assert str(path) in str(error.value)
    with pytest.raises(ConfigError):
        read_yaml(tmp_path / "none.yaml")
