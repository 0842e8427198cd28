"""`prunevid chat`: lines of a pipe or a terminal, commands between questions, Ctrl-C and Ctrl-D. A stub answers."""

from __future__ import annotations

import builtins
import io
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import ask as answering
from prunevid_qwen.cli import main
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, MediaError, SetupError
from prunevid_qwen.processes.interruption import interruption
from tests.stub_model import clip, receipt

__all__ = ["clip"]
Run = Callable[..., int]


class Answered(dict[str, Any]):
    kept = "the tokens that were kept"


class StubVideo:
    """Answers with the number of the question, or raises what the question says."""

    def __init__(self, model: StubTalker, path: str, window: tuple[float | None, float | None]) -> None:
        self.model, self.path, self.window, self.closed = model, path, window, False
        self.history: list[str] = []
        model.opened.append(self)

    def under(self, config: PruneVidConfig) -> StubVideo:
        other = StubVideo(self.model.with_config(config), self.path, self.window)
        other.history = list(self.history)
        return other

    def close(self) -> None:
        self.closed = True

    def chat(self, question: str, *, streamer: Any, **given: Any) -> Answered:
        assert not self.closed
        self.model.given.append(given)
        if question == "say nothing":
            if streamer is not None:
                streamer.on_finalized_text("", stream_end=True)
            return Answered(answer="", stats=receipt())
        if streamer is not None:
            streamer.on_finalized_text("answer ")
        if question in RAISED:
            raise RAISED[question]
        self.history.append(question)
        sys.stdout.write("a library talks\n")
        if streamer is not None:
            streamer.on_finalized_text(f"{len(self.history)}", stream_end=True)
        return Answered(answer=f"answer {len(self.history)}", stats=receipt())

    def reset(self) -> None:
        self.history.clear()


class StubTalker:
    """Remembers the videos that were opened; a model with another config shares that memory."""

    tokenizer = None

    def __init__(self, config: PruneVidConfig, opened: list[StubVideo], given: list[dict[str, Any]]) -> None:
        self.config, self.opened, self.given = config, opened, given

    def with_config(self, config: PruneVidConfig) -> StubTalker:
        return StubTalker(config, self.opened, self.given)

    def open(self, path: str, *, start: float | None, end: float | None, progress: Any) -> StubVideo:
        progress(1, 2)
        return StubVideo(self, path, (start, end))


RAISED: dict[str, BaseException] = {
    "a damaged video?": MediaError("damaged"),
    "no GPU?": SetupError("no GPU"),
    "Ctrl-C": interruption(0),
    "SIGHUP": interruption(1),
}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[StubVideo]:
    """The videos that were opened, in order."""
    found: list[StubVideo] = []
    monkeypatch.setattr(answering, "load", lambda model, config, shown: StubTalker(config, found, []))
    return found


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch, opened: list[StubVideo]) -> Run:
    """Run the command with lines on its stdin."""

    def run(*lines: str, words: tuple[str, ...] = ()) -> int:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return main(["chat", *words])

    return run


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, opened: list[StubVideo]) -> Run:
    """Run the command at a terminal; an exception among the lines is raised by the prompt."""

    def run(*lines: str | BaseException, words: tuple[str, ...] = ()) -> int:
        left: Iterator[str | BaseException] = iter(lines)

        def read(prompt: str = "") -> str:
            sys.stdout.write(prompt)
            line = next(left, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        stdin = io.StringIO()
        stdin.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(builtins, "input", read)
        return main(["chat", *words])

    return run


# ---- pipes


def test_a_pipe_is_a_question_a_line_and_answers_alone(piped: Run, opened: Any, clip: str, capsys: Any) -> None:
    assert (
        piped("What is red?", "", "  And then?  ", "say nothing", words=(clip, "--start", "2", "--max_new_tokens", "9"))
        == 0
    )
    said = capsys.readouterr()
    assert said.out == "answer 1\nanswer 2\n\n" and "a library talks" in said.err
    (video,) = opened
    assert video.closed
    assert (video.path, video.window, video.history) == (clip, (2.0, None), ["What is red?", "And then?"])
    assert video.model.given[0] == {"max_new_tokens": 9, "return_stats": True, "keep_map": True}


def test_a_question_that_fails_is_the_exit_code_and_the_others_are_answered(piped: Run, clip: str, capsys: Any) -> None:
    assert piped("one", "a damaged video?", "no GPU?", "two", words=(clip,)) == MediaError.exit_code
    said = capsys.readouterr()
    assert said.out.splitlines() == ["answer 1", "answer ", "answer ", "answer 2"]
    assert said.err.count("error: ") == 2


def test_json_is_an_object_a_line(piped: Run, clip: str, capsys: Any) -> None:
    lines = ("one", "/stats", "no GPU?", "/reset", "/nonsense", "/help", "two")
    assert piped(*lines, words=("--video", clip, "--json")) == SetupError.exit_code
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [next(iter(each)) for each in told] == [
        "question", "command", "error", "command", "error", "command", "question",
    ]  # fmt: skip
    assert told[0]["answer"] == "answer 1" and told[0]["stats"]["tokens"]["visual"] == 200
    assert told[1]["stats"] == told[0]["stats"]
    assert told[2]["error"] == {"type": "SetupError", "message": "no GPU", "exit_code": 3}
    assert told[4]["error"]["type"] == "ConfigError" and told[6]["answer"] == "answer 1", "/reset forgot the first"


def test_ctrl_c_ends_a_pipe(piped: Run, opened: Any, clip: str) -> None:
    assert piped("one", "Ctrl-C", "two", words=(clip,)) == 130
    assert opened[0].history == ["one"] and opened[0].closed


# ---- a terminal


def test_ctrl_c_stops_an_answer_and_not_the_program(typed: Run, opened: Any, clip: str, capsys: Any) -> None:
    assert typed("one", "Ctrl-C", KeyboardInterrupt(), "two", words=(clip,)) == 0
    assert opened[0].history == ["one", "two"]
    said = capsys.readouterr()
    assert "answer 2\n" in said.out and "stopped" in said.err


def test_a_closed_terminal_ends_the_program(typed: Run, opened: Any, clip: str) -> None:
    assert typed("one", "SIGHUP", "two", words=(clip,)) == 129
    assert opened[0].history == ["one"]
    assert typed(interruption(15), words=(clip,)) == 143


def test_ctrl_d_and_quit_leave_and_an_error_does_not(typed: Run, opened: Any, clip: str, capsys: Any) -> None:
    assert typed("no GPU?", "/nonsense", "one", words=(clip,)) == 0, "a person has seen the error"
    assert typed("one", "/quit", "two", words=(clip,)) == 0
    assert [video.history for video in opened] == [["one"], ["one"]]
    said = capsys.readouterr()
    assert said.err.count("error: ") == 2 and "20 % of 200" in said.err, "a line of the receipt behind each answer"


def test_quiet_is_the_answers_alone(typed: Run, clip: str, capsys: Any) -> None:
    assert typed("one", words=(clip, "--quiet")) == 0
    said = capsys.readouterr()
    assert said.out == "answer 1\n" and said.err.replace("> ", "") == "a library talks\n"


def test_the_prompt_is_on_the_terminal_and_libraries_are_not(
    typed: Run, clip: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """input() edits lines if stdout is the terminal's, which it is for that moment alone."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert typed("one", "two", words=(clip,)) == 0
    said = capsys.readouterr()
    assert said.out == "> answer 1\n> answer 2\n> " and said.err.count("a library talks") == 2


# ---- commands


def test_another_video(piped: Run, opened: Any, clip: str, tmp_path: Path) -> None:
    other = tmp_path / "b c.mp4"
    other.write_bytes(b"not empty")
    assert piped("one", f"/video {other}", "two", f"/video '{clip}'", words=(clip, "--start", "2")) == 0
    assert [(each.path, each.window) for each in opened] == [
        (clip, (2.0, None)), (str(other), (None, None)), (clip, (None, None)),
    ]  # fmt: skip
    assert opened[1].history == ["two"] and all(each.closed for each in opened)


def test_a_video_that_is_not_there_leaves_the_first_open(piped: Run, opened: Any, clip: str) -> None:
    assert piped("/video no/such.mp4", "/video", "one", words=(clip,)) == MediaError.exit_code
    assert len(opened) == 1 and opened[0].history == ["one"]


def test_keeping_another_share(piped: Run, opened: Any, clip: str, capsys: Any) -> None:
    words = (clip, "--config", "aggressive", "--pruning_rate", "0.5", "--tau", "0.7")
    assert piped("one", "/keep 0.2", "two", "/keep 5", "/keep", "three", words=words) == ConfigError.exit_code
    before, after = (each.model.config for each in opened)
    assert (before.keep_ratio, after.keep_ratio, after) == (0.5, 0.2, before.replace(keep_ratio=0.2))
    assert opened[1].history == ["one", "two", "three"] and opened[0].closed, "the conversation goes on"


def test_the_receipt_and_the_page(
    piped: Run, clip: str, capsys: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[tuple[Any, Path]] = []
    pictures = types.SimpleNamespace(picture=lambda kept, path: drawn.append((kept, path)))
    monkeypatch.setitem(sys.modules, "prunevid_qwen.pictures", pictures)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    assert piped("/stats", "/show", words=(clip,)) == ConfigError.exit_code, "there is no answer yet"
    assert drawn == []
    assert piped("one", "/stats", "/show", "/show", "/show mine.html", "/show no/x.html", words=(clip,)) == 2
    assert [path.name for _, path in drawn] == ["kept-1.html", "kept-2.html", "mine.html"]
    assert {kept for kept, _ in drawn} == {Answered.kept}
    assert "after stage 2" in capsys.readouterr().out


def test_a_later_video_is_pruned_as_the_last_question_was(piped: Run, opened: Any, clip: str) -> None:
    assert piped("/keep 0.2", f"/video {clip}", words=(clip, "--tau", "0.7", "--verbose")) == 0
    assert [(each.model.config.keep_ratio, each.model.config.tau) for each in opened] == [(0.4, 0.7), *[(0.2, 0.7)] * 2]
    assert all(each.model.config.verbose for each in opened)


def test_the_toy_talks_about_a_video_that_is_encoded_once(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    lines = ("What color is the last object?", "And the first?", "/keep 0.1", "How many?", f"/show {tmp_path}/k.html")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    assert main(["chat", "--json", "--device", "cpu", "--max_new_tokens", "3"]) == 0
    one, two, _, three, _ = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [each["stats"]["session"]["vision"] for each in (one, two, three)] == ["encoded", "reused", "reused"]
    tokens = [each["stats"]["tokens"] for each in (one, two, three)]
    assert tokens[0]["after_stage2"] == tokens[1]["after_stage2"] > tokens[2]["after_stage2"] > 0
    prompts = [each["stats"]["input"]["prompt_tokens"] for each in (one, two, three)]
    assert prompts[0] < prompts[1] < prompts[2], "the conversation goes on"
    assert (tmp_path / "k.html").stat().st_size > 1000


def test_the_bundled_clip_and_one_video_at_most(piped: Run, opened: Any, clip: str) -> None:
    assert piped("one") == 0 and Path(opened[0].path) == Path(answering.bundled_clip()[0])
    assert piped("one", words=(clip, clip)) == ConfigError.exit_code
    assert piped("one", words=("no/such.mp4",)) == MediaError.exit_code
    assert len(opened) == 1
