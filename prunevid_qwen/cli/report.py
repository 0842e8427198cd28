"""What a person reads (the answer as it comes, then small tables) and what a program reads (one JSON object)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from prunevid_qwen.cli.answer import Outcome
from prunevid_qwen.cli.groups import BUNDLED
from prunevid_qwen.cli.request import Request
from prunevid_qwen.cli.verdict import Stats, first_token_seconds, seconds_of
from prunevid_qwen.config.amounts import percent, sizes
from prunevid_qwen.config.flat import READING
from prunevid_qwen.errors import abridged

_PARTS = {
    "read": "reading the video",
    "vision": "vision encoder",
    "merge": "stage 1, merging",
    "prefill": "decoder over the prompt",
    "select": "stage 2, selecting",
    "compact": "stage 3, cutting the cache",
}

_CORE = ("enable_cache_compression", "position_scheme", *READING)


class Report:
    """Shows one request's outcome: people read stdout, or a program does and people read stderr."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.out = Console(file=request.output.stdout, highlight=False)
        self.err = Console(stderr=True, highlight=False)
        self.begun = False
        self.logged: set[str] = set()  # warnings that a person has read already, under --verbose

    @contextlib.contextmanager
    def telling(self) -> Iterator[Callable[[str], None]]:
        """Give a line that says what is going on, on a terminal only; there is none before it is first told."""
        status = self.err.status("")
        try:

            def tell(words: str) -> None:
                if self.err.is_terminal:
                    status.update(f"{words} ...")
                    status.start()

            yield tell
        finally:
            status.stop()

    @contextlib.contextmanager
    def encoding(self) -> Iterator[Callable[[int, int], None] | None]:
        """Give `generate` a bar to move while it reads and encodes a long video, on a terminal only."""
        if self.request.output.as_json or self.request.output.quiet or not self.err.is_interactive:
            yield None
            return
        words = TextColumn("reading and encoding"), BarColumn(), MofNCompleteColumn(), TextColumn("frames")
        bar = Progress(*words, TimeRemainingColumn(), console=self.err, transient=True)
        task = bar.add_task("")

        def move(done: int, frames: int) -> None:
            if done < frames:  # a video of one chunk never shows a bar
                bar.update(task, completed=done, total=frames)
                bar.start()
                bar.refresh()
            else:  # gone before the answer is printed
                bar.stop()

        try:
            yield move
        finally:
            bar.stop()

    def streamer(self, model: Any) -> Any:
        """Return a transformers streamer that prints the question, then the answer's words as they come."""
        if self.request.output.as_json:
            return None
        from transformers import TextStreamer

        report = self

        class AnswerStreamer(TextStreamer):  # type: ignore[misc]
            """Waits with the question until there is an answer: an error before it stands alone."""

            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                if not text and not report.begun:  # the end of nothing
                    return
                report.begin_answer()
                report.out.file.write(text + "\n" * stream_end)  # stdout, which is stderr for libraries meanwhile
                report.out.file.flush()

        return AnswerStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)

    def begin_answer(self) -> None:
        """Print what the answer is to, once."""
        if not self.begun:
            self.begun = True
            from prunevid_qwen.video.data_uris import named

            asked = self.request
            if asked.output.quiet:
                return
            sources = ", ".join(map(named, (*asked.videos, *asked.images)))
            for name, said in (("Model", asked.who()), ("Seen", sources), ("Question", asked.question or "")):
                style = "yellow" if name == "Model" and asked.model.model_path == BUNDLED else None
                self.out.print(f"[bold]{name}:[/bold] {escape(said)}", style=style, soft_wrap=True)
            self.out.print("[bold]Answer:[/bold] ", end="")
            self.out.file.flush()

    def show(self, outcome: Outcome) -> None:
        """Print the outcome for people: under ``--quiet`` the answer alone."""
        if not self.begun:  # --compare times both whole, or the answer is empty
            self.begin_answer()
            self.out.print(escape(outcome.answer), soft_wrap=True)
        if self.request.output.quiet:
            return
        if outcome.baseline is not None:
            self.out.print(f"[bold]Unpruned:[/bold] {escape(outcome.baseline['answer'])}", soft_wrap=True)
            self.out.print(comparison_table(outcome.stats, outcome.baseline["stats"]))
        else:
            self.out.print(tokens_table(outcome.stats))
            self.out.print(escape(times_line(outcome.stats)))
        if self.request.output.verbose:
            self.out.print(escape(details(outcome.stats)), soft_wrap=True)
        for note in self.notes(outcome):
            self.out.print(escape(note))

    def notes(self, outcome: Outcome) -> list[str]:
        """Return the verdict, the warnings and the right answer: what a person has to see whatever a program reads."""
        notes = []
        if outcome.verdict is not None:
            same = outcome.baseline is not None and outcome.baseline["answer"] == outcome.answer
            notes += [outcome.verdict, "Same answer." if same else "The answers differ."]
            found = outcome.comparison or {}
            once = "read and encoded once" if found.get("encoded_once", True) else "read once, and encoded in each turn"
            notes.append(
                f"Both answered {found.get('turns')} times in turns, once unmeasured before, from media that were "
                f"{once}; the table shows each side's middle turn."
            )
        if self.request.expected is not None:
            right = outcome.answer.strip().lower() == self.request.expected.strip().lower()
            notes.append(f"The clip's true answer: {self.request.expected} ({'right' if right else 'wrong'}).")
        warnings = list(outcome.stats.get("warnings", ()))
        for seen in (*outcome.stats["input"].get("videos", ()), *outcome.stats["input"].get("images", ())):
            warnings += seen.get("warnings", ())
        notes += [f"warning: {warning}" for warning in warnings if abridged(warning) not in self.logged]
        return notes


def tokens_table(stats: Stats) -> Table:
    """Return what each stage left of the visual tokens and of the cache."""
    tokens, visual = stats["tokens"], stats["tokens"]["visual"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("Tokens", justify="right")
    table.add_column("Kept", justify="right")
    table.add_column("How", overflow="fold")
    three = stats["stage3"]
    inner = [cut for cut in stats.get("steps", ())[:-1] if cut["where"] != "door"]
    for name, left, how in (
        ("visual, unpruned", visual, _seen(stats)),
        ("after stage 1", tokens["after_stage1"], _stage1(stats["stage1"])),
        *((f"after {cut['where']}", cut["tokens_out"], f"stage 2, {cut['name']}") for cut in inner),
        ("after stage 2", tokens["after_stage2"], _stage2(stats["stage2"])),
        ("average over the layers", tokens["layer_average"], "what the prompt costs to read"),
    ):
        table.add_row(name, f"{left:.0f}", _share(left, visual), how)
    how = f"stage 3: {_idle(three)}"
    if three.get("applied"):
        how = f"{three['original_length']} -> {three['compressed_length']} entries a layer while decoding"
    left, whole = three["cache_bytes"], three["cache_bytes_unpruned"]
    if left < whole:  # merging alone saves too
        how = "{} of {} saved; {}".format(*sizes(whole - left, whole), how)
    table.add_row("cache", "", _share(left, whole), how)
    return table


def _seen(stats: Stats) -> str:
    said = []
    for video in stats["input"].get("videos", ()):
        size, resized = list(video["size"]), list(video.get("resized", video["size"]))
        seen = f", resized to {resized[1]}x{resized[0]}" if resized != size else ""
        said.append(f"{video['frames']} frames of {size[1]}x{size[0]}{seen}")
    images = len(stats["input"].get("images", ()))
    if images:
        said.append(f"{images} image{'s' if images > 1 else ''}")
    return ", ".join(said)


def _stage1(stage: Stats) -> str:
    if not stage.get("applied"):
        return _idle(stage)
    # a picture that scrolls may look alike, too: that something stood still is not what was measured
    alike = "" if stage.get("tau") is None else f"; {percent(stage['static_ratio'])} looked alike over time"
    return f"by {stage['merger']}{alike}"


def _stage2(stage: Stats) -> str:
    if not stage.get("applied"):
        return _idle(stage)
    got = f"{percent(stage['achieved_ratio'])} of what came"
    if stage["requested_ratio"] is not None:
        ratio = f"asked {percent(stage['requested_ratio'])}, got {got}"
    elif stage.get("requested_tokens") is not None:
        ratio = f"asked {stage['requested_tokens']} tokens of each video or image, got {got}"
    elif stage["threshold"] is None:
        ratio = f"chose {stage['kept_tokens']} tokens: {got}"
    else:  # it depends on picture and question
        cap = f", at most {percent(stage['max_ratio'])}" if stage["max_ratio"] else ""
        ratio = f"chose {stage['kept_tokens']} tokens by its threshold of {stage['threshold']:g}{cap}: {got}"
    return f"{stage['selector']} after layer {stage['layer']}; {ratio}"


def _idle(stage: Stats) -> str:
    return str(stage.get("note") or ("nothing to do" if stage.get("enabled") else "off"))


def _share(part: float, whole: float) -> str:
    return percent(part / whole) if whole else ""


def times_line(stats: Stats) -> str:
    """Return where the time went, in one line."""
    seconds = stats["seconds"]
    parts = ", ".join(f"{words} {seconds[part]:.2f}" for part, words in _PARTS.items() if seconds.get(part))
    each = seconds.get("decode_per_token")
    decode = f"; {each * 1000:.0f} ms for each of {stats['generated_tokens']} tokens" if each else ""
    return f"{seconds['total']:.2f} s in all on {stats['device']} (seconds: {parts}{decode})"


def comparison_table(pruned: Stats, full: Stats) -> Table:
    """Return tokens, cache and time of the pruned and the unpruned model side by side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "pruned", "unpruned"):
        table.add_column(name, justify="right" if name else "left")

    def row(name: str, read: Any, digits: int = 0) -> None:
        table.add_row(name, *(f"{read(stats):.{digits}f}" for stats in (pruned, full)))

    row("visual tokens that enter the decoder", lambda s: s["tokens"]["after_stage1"])
    row("visual tokens in its last layers", lambda s: s["tokens"]["after_stage2"])
    row("visual tokens, average over the layers", lambda s: s["tokens"]["layer_average"])
    table.add_row("cache after the prompt", *sizes(*(stats["stage3"]["cache_bytes"] for stats in (pruned, full))))
    for part, words in _PARTS.items():
        row(f"seconds, {words}", lambda s, part=part: seconds_of(s, part), 3)
    row("seconds to the first token", first_token_seconds, 3)
    row("seconds for each token after it", lambda s: seconds_of(s, "decode_per_token"), 4)
    row("seconds in all", lambda s: s["seconds"]["total"], 3)
    row("tokens generated", lambda s: s["generated_tokens"])
    return table


def details(stats: Stats) -> str:
    """Return what ``--verbose`` adds, as lines; of options those of the methods, which alone were read."""
    lines = []
    for video in stats["input"].get("videos", ()):
        times = " ".join(f"{time:.2f}" for time in video["timestamps"])
        lines.append(f"{video['source']}: read by {video['backend']}, grid {video['grid']}, frames at {times} s")
    lines.append(f"positions: {stats['position_scheme']}; {stats['dtype']}, attention {stats['attn_implementation']}")
    lines.append(" ".join(f"{name} {version}" for name, version in stats["versions"].items()))
    methods = stats.get("methods")
    if methods is None:  # a plan, or a receipt of 0.1
        lines.append(_written(stats["config"] or stats["plan"]))
    else:
        for part, own in methods.items():
            lines.append(f"{part} " + ("off" if own is None else f"{own['name']}: {_written(own['options'])}"))
        lines.append(_written({name: stats["config"][name] for name in _CORE}))
    return "\n".join(lines)


def _written(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())
