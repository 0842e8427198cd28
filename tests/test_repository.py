"""What contributors and packagers meet: CI calls what exists, and every file that says a version or a Python agrees."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from prunevid_qwen.version import __version__
from tools.make_wheel import wrong_in

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")  # no tomllib in Python 3.10
PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PYPROJECT)


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs() -> dict[str, Any]:
    return {f"{path.stem}/{name}": job for path in WORKFLOWS for name, job in loaded(path)["jobs"].items()}


def commands(job: dict[str, Any]) -> list[list[str]]:
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


@pytest.mark.parametrize("name", jobs())
def test_a_job_calls_make_targets_that_exist_and_ends(name: str) -> None:
    job = jobs()[name]
    called = commands(job)
    assert called and job["timeout-minutes"] <= 360
    for words in called:
        assert words[0] == "make" and words[1] in TARGETS, words
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)


def test_ci_does_what_contributing_promises() -> None:
    called = {name: {words[1] for words in commands(job)} for name, job in jobs().items()}
    each = {workflow: set().union(*(made for name, made in called.items() if name.startswith(f"{workflow}/")))
            for workflow in ("ci", "nightly", "weekly")}  # fmt: skip
    assert each == {
        "ci": {"lint", "test", "wheel"},
        "nightly": {"test-all", "docs"},
        "weekly": {"test-matrix", "test-newest"},
    }
    for path in WORKFLOWS:
        made = loaded(path)
        assert made["permissions"] == {"contents": "read"}
        assert set(made[True]) == ({"push", "pull_request"} if path.stem == "ci" else {"schedule", "workflow_dispatch"})


def test_the_tests_run_on_every_python_that_is_promised() -> None:
    assert jobs()["ci/test"]["strategy"]["matrix"]["python"] == PYTHONS == ["3.10", "3.11", "3.12", "3.13"]
    assert f'requires-python = ">={PYTHONS[0]}"' in PYPROJECT


def test_hooks_before_a_commit_are_those_of_make_lint() -> None:
    (local,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.M)
    assert recipe is not None
    lint = [line.strip().removeprefix("@$(BIN)/").removesuffix(" .") for line in recipe[1].splitlines()]
    hooks = [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in local["hooks"]]
    assert hooks == lint


def test_the_citation_is_of_this_version_and_these_authors() -> None:
    cited = loaded(ROOT / "CITATION.cff")
    assert str(cited["version"]) == __version__
    assert [author["name"] for author in cited["authors"]] == re.findall(
        r'authors = \[\{ name = "(.+)" \}\]', PYPROJECT
    )
    assert cited["license"] == "Apache-2.0"
    assert f"## {__version__}" in (ROOT / "docs" / "releases.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_fields_that_can_be_filled_in(path: Path) -> None:
    form = loaded(path)
    assert {"name", "description", "body"} <= set(form)
    names = [field["id"] for field in form["body"]]
    assert len(set(names)) == len(names)
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown") and field["attributes"]["label"]


def test_a_bug_report_asks_for_the_doctors_report_and_the_receipt() -> None:
    (form,) = [loaded(path) for path in FORMS if path.stem == "bug"]
    asked = {field["id"]: field for field in form["body"]}
    for name, word in (("doctor", "`prunevid doctor`"), ("receipt", "--json")):
        assert word in asked[name]["attributes"]["description"] and asked[name]["validations"]["required"]
    request = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")
    assert "--json" in request and "prunevid --version" in request


def test_a_wheel_with_research_or_without_its_data_is_refused() -> None:
    whole = {path.relative_to(ROOT).as_posix() for path in (ROOT / "prunevid_qwen").rglob("*") if path.is_file()}
    about = {"prunevid_qwen-0.dist-info/METADATA"}
    assert wrong_in(whole | about) == []
    assert wrong_in(whole | about | {"research/__init__.py"}) == ["the wheel holds research/"]
    recipe = "prunevid_qwen/training/recipes/glimpse.yaml"
    assert wrong_in((whole | about) - {recipe}) == [f"the wheel lacks {recipe}"]
