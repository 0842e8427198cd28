"""Old spellings go on for a release with a hint; groups alone show their help; examples of every help are read."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from prunevid_qwen.cli import command as registering
from prunevid_qwen.cli import evaluate, main, reproduce
from prunevid_qwen.cli.app import OLD_COMMANDS, OLD_OPTIONS, app
from prunevid_qwen.cli.option import documented
from prunevid_qwen.cli.output import EXIT_CODES
from prunevid_qwen.config.option_classes import classes_of
from prunevid_qwen.evaluation.datasets import benchmark, names
from tests.patience import PATIENCE

GROUPS = ("eval", "bench", "train", "config", "reproduce", "tune")
VALUES = {
    "--configs": "paper",
    "--out": "x.json",
    "--dry_run": None,
    "--attn_implementation": "eager",
    "NAME": "mvbench",
}


def commands(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command under a group, with the words that call it."""
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *names, name)
    if not hasattr(group, "commands"):
        yield names, group


ALL = dict(commands(typer.main.get_command(app)))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each command line that was read whole; none is carried out."""
    caught: list[Any] = []
    monkeypatch.setattr(registering, "carry_out", lambda work, given, log: caught.append((work, given)) or 0)
    return caught


# ---- old spellings


@pytest.mark.parametrize(
    ("command", "old", "new"), [(words, old, new) for words, own in OLD_OPTIONS.items() for old, new in own.items()]
)
def test_an_old_option_means_its_new_one_and_says_so(
    command: tuple[str, ...], old: str, new: str, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    value = [] if VALUES[new] is None else [str(VALUES[new])]
    given = {"eval run": ["--data", "d"], "eval export": ["runs"]}.get(" ".join(command), [])
    name = ["mvbench"] if command == ("eval", "run") and new != "NAME" else []
    assert main([*command, *name, *given, old, *value]) == 0
    said = capsys.readouterr().err
    assert old in said and new in said and said.count("\n") == 1
    today = value if new == "NAME" else [new, *value]
    assert main([*command, *name, *today, *given]) == 0 and capsys.readouterr().err == ""
    assert calls[0] == calls[1]


@pytest.mark.parametrize(("old", "new"), OLD_COMMANDS.items())
def test_an_old_command_means_its_new_one(
    old: tuple[str, ...], new: tuple[str, ...], calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*old, "--out", "x"]) == main([*new, "--out", "x"]) == 0
    assert calls[0] == calls[1] and capsys.readouterr().err.count("\n") == 1


def test_dashes_and_equals_are_old_spellings_too(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "run", "--compare=paper,fastv", "mvbench", "--data=d"]) == 0
    assert calls[0][1]["configs"] == "paper,fastv"
    assert main(["eval", "visual-cot", "--check"]) == 0 and calls[1][1]["dry_run"] is True


def test_two_spellings_of_one_option_are_refused(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    for twice in (("--config", "--compare"), ("--config", "--configs"), ("--configs", "--compare")):
        assert main(["eval", "run", "mvbench", "--data", "d", twice[0], "paper", twice[1], "fastv"]) == 2
        said = capsys.readouterr().err
        assert twice[0] in said and twice[1] in said and not calls
    assert main(["ask", "--compare", "--config", "fastv"]) == 0, "which ask has always had"


def test_a_folder_without_its_option_is_checked_with_a_hint(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [main(["eval", "check", "mvbench", *words, str(tmp_path)]) for words in ([], ["--data"])]
    said = capsys.readouterr().err
    assert outcomes[0] == outcomes[1] == 4 and said.count("note: ") == 1 and "--data DIR" in said
    assert main(["eval", "check", "mvbench"]) == 2
    assert main(["eval", "check", "mvbench", "a", "--data", "b"]) == 2


# ---- help


@pytest.mark.parametrize("words", [[], *([name] for name in GROUPS)], ids=lambda each: " ".join(each) or "prunevid")
def test_a_group_alone_shows_its_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    said = capsys.readouterr()
    assert "Usage" in said.out and "Commands" in said.out and said.err == ""


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_help_of_every_command_has_examples_and_the_one_table_of_exit_codes(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main([*words, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Examples" in said and "--json" in said
    table = said.partition("Exit codes")[2]
    assert [int(code) for code in re.findall(r"^ +(\d+)  ", table, re.MULTILINE)] == list(EXIT_CODES)
    assert max(map(len, said.splitlines())) <= 100


def test_help_shows_a_dozen_options_and_help_all_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    for words, few in ((["--help"], True), (["--help-all"], False), (["--help", "--all"], False)):
        assert main(["ask", *words]) == 0
        said = capsys.readouterr().out
        options = re.findall(r"^  (?:-\w, )?(--\w+)", said, re.MULTILINE)
        assert ("--tau" not in options) == few and ("--help-all" in said) == few
        assert {"--video_path", "--keep_ratio", "--config", "--model_path", "--json"} <= set(options)
        assert (len(options) <= 18) == few, options


def test_no_help_loads_torch_or_yaml() -> None:
    words = [[*names, "--help"] for names in ALL if names[0] != "reproduce"]
    code = (
        f"import sys\nfrom prunevid_qwen.cli import main\nfor words in {words}: assert main(words) == 0\n"
        "sys.exit(bool({'torch', 'transformers', 'pandas', 'accelerate', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


def test_the_shell_completes_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from prunevid_qwen.cli import main; sys.exit(main())"],
        env={"_PRUNEVID_COMPLETE": "complete_bash", "COMP_WORDS": "prunevid ev", "COMP_CWORD": "1"},
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["eval"], done


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("--video-path v.mp4 --question Q", "`prunevid ask`"),
        ("v.mp4 What?", "`prunevid ask`"),
        ("eval mvbench --data .", "`prunevid eval run mvbench`"),
        ("eval --data .", "`prunevid eval run`"),
        ("reproduce nope", f"There are {', '.join(reproduce.TABLES)}."),
        ("eval rnu", "'run'"),
        ("ask --model X", "(Possible options: --model_path)"),
        ("methods --hlp", "(Possible options: --help)"),
    ],
)
def test_what_was_meant_is_offered(words: str, offered: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[0].endswith(offered) or said.err.splitlines()[0].endswith(f"Did you mean {offered}?")
    assert said.out == ""


def test_help_of_a_method_that_is_not_there_is_the_error_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--selector", "nope", "--help"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "fastv" in said.err


def test_every_option_of_a_method_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("merger", "selector"):
        for name, own in classes_of(part).items():
            silent = [each.name for each in documented(own, "", defaults=False).options if not each.text]
            assert silent == [] and "=None" not in "".join(each.text for each in documented(own, "").options), (
                name,
                silent,
            )


def test_the_help_names_the_data_sets_and_their_parts() -> None:
    assert names() == evaluate.DATASETS
    several = {each: list(benchmark(each).parts) for each in names() if len(benchmark(each).parts) > 1}
    said = dict(re.findall(r"(\w+ \(default\) or \w+) of (\w+)", evaluate.PART))
    assert {name: parts.replace(" (default)", "").split(" or ") for parts, name in said.items()} == several, (
        "PART of cli/evaluate.py names each data set of several parts"
    )


# ---- examples


def examples(words: tuple[str, ...]) -> list[list[str]]:
    """The command lines under "Examples" of a command's help, whole: ``...`` stands for the first."""
    explained = ALL[words].explained
    text = explained() if callable(explained) else explained
    block = text.partition("Examples:\n")[2].split("\n\n")[0].replace("\\\n", " ")
    made: list[list[str]] = []
    for line in block.splitlines():
        said = re.sub(r"^  (?=\S)", "", line)
        said = re.split(r"(?<=\S) {2,}(?=\S)", re.sub(r" +(?=--)", " ", said))[0].partition(" > ")[0]
        given = shlex.split(said)
        if not line.startswith("  ") or line.startswith("     ") or not given:
            continue
        launched = given[:2] == ["accelerate", "launch"]
        if given[0] == "...":
            base = next((each for each in made if tuple(each[: len(words)]) == words), made[0])
            given = [*base, *given[1:]]
        elif launched:
            given = [*words, *given[given.index(next(each for each in given if each.endswith(".py"))) + 1 :]]
        elif given[0] == "prunevid":
            given = [word for word in given[1:] if word != "..."]
        else:
            continue
        made.append(given)
    return made


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_example_can_be_typed(
    words: tuple[str, ...], calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = examples(words)
    assert found
    for line in found:
        assert main(line) == 0, (line, capsys.readouterr().err)
    assert len(calls) >= len([line for line in found if "--help" not in line])
    assert "old spelling" not in capsys.readouterr().err
