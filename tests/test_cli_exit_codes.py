"""Every exit code of the command line, and that an error is a sentence, or one object under --json."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
import typer

from prunevid_qwen.cli import ask as answering
from prunevid_qwen.cli import main
from prunevid_qwen.cli.app import app
from prunevid_qwen.cli.output import Reporting
from prunevid_qwen.errors import ConfigError, PruningNotApplied, SetupError
from prunevid_qwen.evaluation.store import replace
from tests.patience import PATIENCE
from tests.stub_model import StubModel, ask, clip, model

__all__ = ["clip", "model"]
ROOT = Path(__file__).resolve().parent.parent


BAD_OPTIONS = {
    "unknown option": (["--keep_ration", "0.2"], "keep_ratio"),
    "unknown preset": (["--config", "papr"], "did you mean 'paper'?"),
    "no such config file": (["--config", "none.json"], "no config file"),
    "percent": (["--keep_ratio", "25"], "did you mean 0.25?"),
    "too much": (["--keep_ratio", "1.5"], "(0, 1]"),
    "nothing": (["--keep_ratio", "0"], "nothing would be left"),
    "not a number": (["--keep_ratio", "nan"], "(0, 1]"),
    "a word": (["--keep_ratio", "lots"], "keep_ratio is a number, got 'lots'"),
    "a fraction of a frame": (["--max_frames", "2.5"], "max_frames is a whole number, got '2.5'"),
    "said twice": (["--keep_ratio", "0.4", "--pruning_rate", "0.6"], "twice"),
    "bad rate": (["--pruning_rate", "1"], "[0, 1)"),
    "bad choice": (["--selection_scope", "globl"], "did you mean 'global'?"),
    "bad switch": (["--enable_stage1=maybe"], "true or false"),
    "no tokens": (["--max_new_tokens", "0"], "max_new_tokens"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_end_with_2_and_a_sentence(case: str, clip: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, sentence = BAD_OPTIONS[case]
    assert ask("--video_path", clip, "--question", "q", *words) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err and "Traceback" not in printed.err
    assert printed.out == ""


def test_no_question_and_nothing_to_ask_about(clip: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("--video_path", clip) == 2
    assert "no question" in capsys.readouterr().err
    assert ask("--video_path", clip, "--question", " ") == 2
    assert ask("--question", "q") == 2
    assert "--video_path or --image" in capsys.readouterr().err


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["aks"]) == 2
    assert "aks" in capsys.readouterr().err


def test_missing_and_empty_media_end_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert ask("--video_path", str(tmp_path / "none.mp4"), "--question", "q") == 4
    assert "no video at" in capsys.readouterr().err
    assert ask("--video_path", str(empty), "--question", "q") == 4
    assert "0 bytes" in capsys.readouterr().err
    assert ask("--image", str(tmp_path / "none.jpg"), "--question", "q", "--json") == 4
    assert ask("--video_path", "https://example.org/a.mp4", "--question", "q") == 4
    assert "download it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SetupError("no CUDA device here"), 3),
        (PruningNotApplied("stage 2 did not run"), 5),
        (ConfigError("bad"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_of_the_model_have_their_exit_code(
    error: BaseException, code: int, clip: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answering, "load", lambda model, config, shown: StubModel(config, error))
    assert ask("--video_path", clip, "--question", "q", "--json") == code
    printed = capsys.readouterr()
    told = json.loads(printed.out)["error"]
    assert told["exit_code"] == code and told["message"] == (str(error) or "interrupted")
    assert told["message"] in printed.err and "Traceback" not in printed.err


def test_an_error_says_an_argument_as_it_is_typed(clip: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    error = SetupError("no network: pass model_path='./name'")
    monkeypatch.setattr(answering, "load", lambda model, config, shown: StubModel(config, error))
    assert ask("--video_path", clip, "--question", "q") == 3
    assert capsys.readouterr().err == "error: no network: pass --model_path ./name\n"


def test_retries_of_the_hub_are_shown_by_verbose_alone() -> None:
    hub = logging.getLogger("huggingface_hub")
    before, library = hub.level, transformers.utils.logging.get_verbosity()
    try:
        hub.setLevel(logging.WARNING)
        Reporting(verbose=True).calm_libraries()
        assert hub.isEnabledFor(logging.WARNING)
        Reporting().calm_libraries()
        assert not hub.isEnabledFor(logging.WARNING) and hub.isEnabledFor(logging.ERROR)
    finally:
        hub.setLevel(before)
        transformers.utils.logging.set_verbosity(library)
        transformers.utils.logging.enable_progress_bar()


def test_verbose_adds_the_traceback(clip: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(answering, "load", lambda model, config, shown: StubModel(config, SetupError("no CUDA")))
    assert ask("--video_path", clip, "--question", "q", "--json", "--verbose") == 3
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_while_options_are_read(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupted(*_given: Any, **_named: Any) -> None:
        raise typer.Abort

    monkeypatch.setattr("prunevid_qwen.cli.app._tree", lambda _app: SimpleNamespace(main=interrupted))
    assert ask() == 130 and "Traceback" not in capsys.readouterr().err


def test_bugs_are_not_swallowed(clip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "load", lambda model, config, shown: StubModel(config, KeyError("a bug")))
    with pytest.raises(KeyError, match="a bug"):
        ask("--video_path", clip, "--question", "q", "--json")


def test_a_gpu_that_is_not_there_ends_with_3(clip: str, tmp_path: Path, capsys: Any) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_5_vl"}')  # refused before any weights are looked for
    words = ["--video_path", clip, "--question", "q", "--model_path", str(tmp_path), "--device", "cuda"]
    assert ask(*words) == 3
    printed = capsys.readouterr()
    assert "--device cuda" in printed.err and "--device cpu" in printed.err and printed.out == ""


def test_the_demo_answers_right_with_pruned_tokens() -> None:
    done = subprocess.run(
        [sys.executable, "demo.py", "--json", "--config", "paper"],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["answer"] == told["expected_answer"]
    tokens = told["stats"]["tokens"]
    assert 0 < tokens["after_stage2"] < tokens["after_stage1"] < tokens["visual"]


def commands(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command under a group, with the words that call it."""
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *names, name)
    if not hasattr(group, "commands"):
        yield names, group


def test_every_command_that_can_be_stopped_and_gone_on_with_says_its_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = dict(commands(typer.main.get_command(app)))
    long = [names for names, command in found.items() if "stopped run" in f"{command.explained()} {command.help}"]
    assert {("batch",), ("eval", "run"), ("bench", "speed"), ("train", "glimpse")} <= set(long)
    for names in [*long, ("ask",), ("demo",)]:
        assert main([*names, "--help"]) == 0
        said = capsys.readouterr().out
        assert [code for code in (129, 130, 143) if f"{code} " not in said] == [], names


@pytest.mark.parametrize(
    "words",
    [
        ["methods", "--out", "{}/x.json"],
        ["config", "save", "--out", "{}/x.json"],
        ["new-method", "mine", "--out", "{}/x.py"],
        ["batch", "{}", "--question", "q", "--out", "{}"],
    ],
)
def test_a_file_that_cannot_be_written_is_a_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """/proc takes no files, whoever asks."""
    assert main([word.format("/proc") for word in words]) == 2
    assert "/proc" in capsys.readouterr().err
    assert not Path("/proc.run").exists()


def test_a_folder_that_takes_no_files_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.lock").mkdir()  # as a folder without permission does, it refuses the lock
    assert main(["bench", "accuracy", "--out", str(tmp_path), "--quick"]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    (tmp_path / "full").touch()
    with pytest.raises(SetupError, match="full"):
        replace(tmp_path / "full" / "report.md", b"")
    replace(tmp_path / "new" / "report.md", b"x")
    assert (tmp_path / "new" / "report.md").read_bytes() == b"x"
