"""The loop of ``prunevid chat``: lines of a terminal or a pipe, answers as they come, commands between them."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.ask import check_asked
from prunevid_qwen.cli.output import Reporting
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.errors import ConfigError, PruneVidError, quoted
from prunevid_qwen.processes.interruption import signal_of

PROMPT = "> "
COMMANDS = {
    "/video": "PATH  go on with another video, or a folder of frames",
    "/keep": "0.2  keep this share of the tokens from now on",
    "/stats": "the receipt of the last answer",
    "/show": "[PATH.html]  write a page that shows the tokens that the last answer kept",
    "/reset": "forget the questions and answers, not the video",
    "/help": "these lines",
    "/quit": "leave; so does Ctrl-D",
}


@dataclass(frozen=True)
class Opening:
    """What a conversation begins with.

    Args:
        path: of the video.
        start: seconds, as `read_video` takes them.
        end: seconds.
        build: makes a config of options.
        given: options of the command line.
    """

    path: str
    start: float | None
    end: float | None
    build: Callable[[Mapping[str, Any]], PruneVidConfig]
    given: Mapping[str, Any]


@contextlib.contextmanager
def waiting(output: Reporting, what: str) -> Iterator[Any]:
    """Say on stderr what goes on inside the block, where a person looks at it; yield the line, to update or stop it."""
    from rich.console import Console

    err = Console(stderr=True, highlight=False)
    status = err.status(f"{what} ...")
    if sys.stdin.isatty() and err.is_terminal and not output.quiet:
        status.start()
    try:
        yield status
    finally:
        status.stop()


class Dialogue:
    """Asks a model about one video at a time, until the input ends.

    Args:
        model: a loaded `PrunedVLM`.
        opening: the first video, and how configs are made.
        output: of the command. Answers go to its stdout, all else to stderr; under ``--json`` one object a line.
        max_new_tokens: longest answer.
    """

    def __init__(self, model: Any, opening: Opening, output: Reporting, max_new_tokens: int) -> None:
        self.model, self.output, self.longest = model, output, max_new_tokens
        self.build, self.given = opening.build, dict(opening.given)
        self.typed = sys.stdin.isatty()
        self.last: Any = None
        self.failed = 0  # exit code of the first line that failed
        self.shown = 0  # pages written
        self.video = self._opened(opening.path, opening.start, opening.end)

    def go_on(self) -> int:
        """Answer line by line; return the exit code: of a pipe that of the first line that failed."""
        if self.typed:
            self.output.note("/help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.")
        try:
            for line in self._lines():
                try:
                    if self._carried_out(line.strip()) == "/quit":
                        break
                except PruneVidError as error:
                    self._refuse(error)
                except KeyboardInterrupt as interruption:
                    if not self.typed or signal_of(interruption) != signal.SIGINT:
                        raise  # of a pipe, and a terminal that is closed: that is the program's end
                    self._note("\nstopped: it is as if this line had not been")
        finally:
            self.video.close()
        return 0 if self.typed else self.failed

    def _lines(self) -> Iterator[str]:
        if not self.typed:
            yield from sys.stdin
            return
        with contextlib.suppress(ImportError):  # a Python without it: lines cannot be edited, and are read
            import readline  # noqa: F401  # input() has a history and keys with it
        while True:
            try:
                # input() edits lines where stdout is the terminal's own; else its prompt goes to stderr
                place = self.output.stdout if self.output.stdout.isatty() else sys.stderr
                with contextlib.redirect_stdout(place):
                    line = input(PROMPT)
            except EOFError:
                self._note("")
                return
            except KeyboardInterrupt as interruption:
                if signal_of(interruption) != signal.SIGINT:
                    raise
                self._note("\nCtrl-D leaves")
            else:
                yield line

    def _carried_out(self, line: str) -> str:
        """Carry out a command or answer a question; return the command's name."""
        if not line:
            return ""
        if not line.startswith("/"):
            self._answer(line)
            return ""
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name == "/quit":
            return name
        do = {
            "/video": self._go_to, "/keep": self._keep, "/stats": self._stats, "/show": self._show,
            "/reset": self._reset, "/help": self._help,
        }.get(name)  # fmt: skip
        if do is None:
            raise ConfigError(f"no command is called {quoted(name)}: there are {', '.join(COMMANDS)}")
        do(rest)
        return name

    # ---- a question

    def _answer(self, question: str) -> None:
        from prunevid_qwen.answers.streamer import streamer_to

        out = self.output.stdout
        begun = ended = False

        def told(text: str, last: bool) -> None:
            nonlocal begun, ended
            status.stop()
            begun, ended = begun or bool(text), last
            if begun:
                out.write(text + "\n" * last)
                out.flush()

        streamer = None if self.output.as_json else streamer_to(told, self.model.tokenizer)
        with waiting(self.output, "Thinking") as status:
            try:
                found = self.video.chat(
                    question, max_new_tokens=self.longest, return_stats=True, keep_map=True, streamer=streamer
                )
            finally:
                if begun and not ended:  # stopped or failed midway: what follows begins a line of its own
                    out.write("\n")
        self.last = found
        if self.output.as_json:
            self._tell({"question": question, "answer": found["answer"], "stats": found["stats"]})
        elif not begun:  # an empty answer has its line too
            out.write(f"{found['answer']}\n")
            out.flush()
        if self.typed:
            self._note(short_receipt(found["stats"]))

    # ---- commands

    def _go_to(self, path: str) -> None:
        if not path:
            raise ConfigError("/video needs a path: /video PATH")
        path = path if Path(path).exists() else (shlex.split(path) or [path])[0]  # with quotes, or spaces as they are
        check_asked([path], (), "any")
        other = self._opened(path)
        self.video.close()
        self.video, self.last = other, None
        self._said("/video", f"about {path} from now on; the conversation begins anew")

    def _keep(self, share: str) -> None:
        if not share:
            raise ConfigError("/keep needs a share of the tokens above 0 and up to 1: /keep 0.2")
        given = {**self.given, "keep_ratio": share}
        given.pop("pruning_rate", None)  # which says the same thing in other words
        config = self.build(given)
        config = config.replace(verbose=True) if self.output.verbose else config
        other = self.video.under(config)
        self.model = self.model.with_config(config)  # for the next video
        self.video.close()
        self.video, self.given = other, given
        self._said("/keep", f"{share} of the tokens are kept from the next question on")

    def _stats(self, _rest: str) -> None:
        stats = self._last("/stats")["stats"]
        if self.output.as_json:
            self._tell({"command": "/stats", "stats": stats})
            return
        from rich.console import Console
        from rich.markup import escape

        from prunevid_qwen.cli.report import times_line, tokens_table

        console = Console(file=self.output.stdout, highlight=False)
        console.print(tokens_table(stats))
        console.print(escape(times_line(stats)), soft_wrap=True)

    def _show(self, path: str) -> None:
        from prunevid_qwen.pictures import picture

        last = self._last("/show")
        self.shown += 1
        place = Path(path or f"kept-{self.shown}.html")
        if not place.absolute().parent.is_dir():
            raise ConfigError(f"/show {quoted(path)}: the folder {place.absolute().parent} does not exist")
        picture(last.kept, place)
        self._said("/show", f"wrote {place.absolute()}")

    def _reset(self, _rest: str) -> None:
        self.video.reset()
        self.last = None
        self._said("/reset", "the conversation begins anew; the video stays encoded")

    def _help(self, _rest: str) -> None:
        self._said("/help", "\n".join(f"{name:8}{text}" for name, text in COMMANDS.items()))

    # ---- what they share

    def _opened(self, path: str, start: float | None = None, end: float | None = None) -> Any:
        """Read and encode a video; on a terminal, say how far that is."""
        with waiting(self.output, "Reading and encoding") as status:

            def tell(done: int, frames: int) -> None:
                status.update(f"Reading and encoding, {done}/{frames} frames ...")

            return self.model.open(path, start=start, end=end, progress=tell)

    def _last(self, command: str) -> Any:
        if self.last is None:
            raise ConfigError(f"{command} is about an answer, and there is none yet: ask something first")
        return self.last

    def _refuse(self, error: PruneVidError) -> None:
        self.failed = self.failed or error.exit_code
        typer.echo(f"error: {error}", err=True)
        if self.output.as_json:
            kind = {"type": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
            self._tell({"error": kind})

    def _said(self, command: str, text: str) -> None:
        if self.output.as_json:
            self._tell({"command": command, "said": text})
        else:
            self._note(text)

    def _tell(self, told: dict[str, Any]) -> None:
        self.output.stdout.write(json.dumps(told, ensure_ascii=False, default=str) + "\n")
        self.output.stdout.flush()

    def _note(self, text: str) -> None:
        self.output.note(text)


def short_receipt(stats: Mapping[str, Any]) -> str:
    """Return one line of a receipt: the tokens that were kept, and the time."""
    tokens, said = stats["tokens"], f"{stats['seconds']['total']:.1f} s"
    if tokens["visual"]:
        share = percent(tokens["after_stage2"] / tokens["visual"])
        said = f"{share} of {tokens['visual']:,} visual tokens kept; {said}"
    return f"[{said}]"
