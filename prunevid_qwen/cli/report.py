"""How a person reads an answer: the words as they come, then small tables of the receipt."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prunevid_qwen.answers.streamer import streamer_to
from prunevid_qwen.cli.comparison import Stats, prompt_seconds, seconds_of
from prunevid_qwen.cli.output import Reporting, outline
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
_ABOUT = ("position_scheme", "dtype", "attn_implementation", "versions", "methods")


class Report:
    """Shows one answer, behind what was ``asked``: model, media and question by name; a toy is said in colour."""

    def __init__(self, output: Reporting, asked: Mapping[str, str], toy: bool = False) -> None:
        self.output, self.asked, self.toy = output, asked, toy
        self.out = Console(file=output.stdout, highlight=False)
        self.err = Console(stderr=True, highlight=False)
        self.begun = False
        self.first: tuple[int, float] | None = None  # frames that were encoded when it was first told, and the time
        self.logged: set[str] = set()  # warnings that a person has read already, under --verbose

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Let `tell` show a line while the work inside goes on; note the warnings that ``--verbose`` logs meanwhile."""
        self.status = self.err.status("")
        handler = logging.Handler(logging.WARNING if self.output.verbose else logging.CRITICAL)
        handler.emit = lambda record: self.logged.add(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("prunevid_qwen").addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger("prunevid_qwen").removeHandler(handler)
            self.status.stop()

    def tell(self, words: str) -> None:
        """Say in one line what is going on, on a terminal only."""
        if self.err.is_terminal and not self.output.quiet:
            self.status.update(f"{words} ...")
            self.status.start()

    def tell_encoded(self, done: int, frames: int) -> None:
        """Say how far reading and encoding are; nothing of a video of one chunk."""
        if done < frames:
            now = time.monotonic()
            if self.first is None or done < self.first[0]:  # damage makes a video begin anew
                self.first = done, now
            ready, then = self.first
            left = timedelta(seconds=round((now - then) * (frames - done) / (done - ready))) if done > ready else ""
            self.tell(f"reading and encoding, {done}/{frames} frames" + (f", {left} left" if left != "" else ""))
        else:  # gone before the answer is printed
            self.status.stop()

    def streamer(self, model: Any) -> Any:
        """Return a transformers streamer that prints the question, then the answer's words as they come."""
        if self.output.as_json:
            return None

        def told(text: str, ended: bool) -> None:
            if text or self.begun:  # waits with the question until there is an answer: an error before it stands alone
                self.write(text + "\n" * ended)

        return streamer_to(told, model.tokenizer)

    def write(self, text: str) -> None:
        """Write words of the answer, behind the question, on stdout, which is stderr for libraries meanwhile."""
        self.status.stop()
        if not (self.begun or self.output.quiet):
            for name, said in self.asked.items():
                style = "yellow" if name == "Model" and self.toy else None
                self.out.print(f"[bold]{name}:[/bold] {escape(said)}", style=style, soft_wrap=True)
            self.out.print("[bold]Answer:[/bold] ", end="")
        self.begun = True
        self.out.file.write(text)
        self.out.file.flush()

    def show(self, told: Mapping[str, Any]) -> None:
        """Show what ``--json`` prints, for people: answer, tables and notes; under ``--json`` the notes on stderr."""
        notes, stats, full = self._notes(told), told["stats"], told.get("baseline")
        if self.output.as_json:
            for note in notes:
                self.output.note(note)
            return
        if not self.begun:  # --compare times both whole, or the answer is empty
            self.write(f"{told['answer']}\n")
        if self.output.quiet:
            return
        if full is not None:
            self.out.print(f"[bold]Unpruned:[/bold] {escape(full['answer'])}", soft_wrap=True)
        self.out.print(tokens_table(stats))
        self.out.print(comparison_table(stats, full["stats"]) if full else escape(times_line(stats)))
        said = [line for line in (looked_at_line(stats), vision_line(stats)) if line]
        for line in [*said, *([details(stats)] if self.output.verbose else []), *notes]:
            self.out.print(escape(line), soft_wrap=True)

    def _notes(self, told: Mapping[str, Any]) -> list[str]:
        """Return the verdict, the warnings and the right answer: what a person has to see whatever a program reads."""
        notes, stats, found = [], told["stats"], told.get("comparison")
        if found is not None:
            once = "read and encoded once" if found["encoded_once"] else "read once, and encoded in each turn"
            once = "read and encoded for each side by itself" if found["encoded_apart"] else once
            notes = [
                told["verdict"],
                "Same answer." if told["same_answer"] else "The answers differ.",
                f"Both answered {found['turns']} times in turns, once unmeasured before, from media that were {once}; "
                "the table shows each side's middle turn.",
            ]
        if "expected_answer" in told:
            right = told["answer"].strip().lower() == told["expected_answer"].strip().lower()
            notes.append(f"The clip's true answer: {told['expected_answer']} ({'right' if right else 'wrong'}).")
        seen = (stats, *stats["input"].get("videos", ()), *stats["input"].get("images", ()))
        warnings = [warning for each in seen for warning in each.get("warnings", ())]
        return notes + [f"warning: {warning}" for warning in warnings if abridged(warning) not in self.logged]


def tokens_table(stats: Stats) -> Table:
    """Return what each stage left of the visual tokens and of the cache."""
    tokens, one, two, three = stats["tokens"], stats["stage1"], stats["stage2"], stats["stage3"]
    seen = []
    for each in stats["input"].get("videos", ()):
        size, resized = ("{1}x{0}".format(*each.get(name, each["size"])) for name in ("size", "resized"))
        seen.append(f"{each['frames']} frames of {size}" + (f", resized to {resized}" if resized != size else ""))
    images = len(stats["input"].get("images", ()))
    seen += [f"{images} image{'s' if images > 1 else ''}"] if images else []
    # a picture that scrolls may look alike, too: that something stood still is not what was measured
    alike = "" if one.get("tau") is None else f"; {percent(one['static_ratio'])} looked alike over time"
    inner = [cut for cut in stats.get("steps", ())[:-1] if cut["where"] != "door"]
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Tokens", "Kept"):
        table.add_column(name, justify="right")
    table.add_column("How", overflow="fold")
    for name, left, how in (
        ("visual, unpruned", tokens["visual"], ", ".join(seen)),
        ("after stage 1", tokens["after_stage1"], _idle(one) or f"by {one['merger']}{alike}"),
        *((f"after {cut['where']}", cut["tokens_out"], f"stage 2, {cut['name']}") for cut in inner),
        ("after stage 2", tokens["after_stage2"], _idle(two) or _selected(two)),
        ("average over the layers", tokens["layer_average"], "what the prompt costs to read"),
    ):
        table.add_row(name, f"{left:.0f}", percent(left / tokens["visual"]) if tokens["visual"] else "", how)
    cut = _idle(three) or f"{three['original_length']} -> {three['compressed_length']} entries a layer while decoding"
    left, whole = three["cache_bytes"], three["cache_bytes_unpruned"]
    saved = "{} of {} saved; ".format(*sizes(whole - left, whole)) if left < whole else ""  # merging alone saves too
    table.add_row("cache", "", percent(left / whole) if whole else "", f"{saved}stage 3: {cut}")
    return table


def _idle(stage: Stats) -> str:
    if stage.get("applied"):
        return ""
    return str(stage.get("note") or ("nothing to do" if stage.get("enabled") else "off"))


def _selected(stage: Stats) -> str:
    asked = f"chose {stage['kept_tokens']} tokens"  # it depends on picture and question
    if stage["requested_ratio"] is not None:
        asked = f"asked {percent(stage['requested_ratio'])}"
    elif stage.get("requested_tokens") is not None:
        asked = f"asked {stage['requested_tokens']} tokens of each video or image"
    elif stage["threshold"] is not None:
        asked += f" by its threshold of {stage['threshold']:g}"
        asked += f", at most {percent(stage['max_ratio'])}" if stage["max_ratio"] else ""
    kept = f"kept {percent(stage['achieved_ratio'])} of what came"
    return f"{stage['selector']} after layer {stage['layer']}; {asked}, {kept}"


def times_line(stats: Stats) -> str:
    """Return where the time went, in one line."""
    seconds = stats["seconds"]
    parts = ", ".join(f"{words} {seconds[part]:.2f}" for part, words in _PARTS.items() if seconds.get(part))
    each = seconds.get("decode_per_token")
    decode = f"; {each * 1000:.0f} ms for each of {stats['generated_tokens']} tokens" if each else ""
    return f"{seconds['total']:.2f} s in all on {stats['device']} (seconds: {parts}{decode})"


def vision_line(stats: Stats) -> str:
    """Return how much of what was shown the vision encoder made, where it may copy what stands still.

    "" where it may not, and where it may only leave out equal positions (``reuse_identical``) and found none.
    """
    found = stats.get("vision")
    if not found:
        return ""
    how = [f"reuse_threshold {found['reuse_threshold']:g}"] if found["reuse_threshold"] is not None else []
    early = found["early_tau"] is not None
    how += [f"early_tau {found['early_tau']:g} after block {found['early_block']:g}"] if early else []
    if not how and found["encoded"] in (None, found["units"]):
        return ""
    asked = f" ({', '.join(how) or 'equal positions once'})"
    if found["encoded"] is None:
        return f"vision: {found['note']}{asked}"
    said = f"vision: encoded {percent(found['encoded'] / found['units'])} of {found['units']:,} units"
    said += f", with {percent(found['share'])} of the work" if early else ""  # some go half of the way
    said += f"{asked}, {found['seconds']:.1f} s"
    return f"{said}; {found['note']}" if found["note"] else said


def looked_at_line(stats: Stats) -> str:
    """Return when the question looked, by minutes and seconds; "" where no step read its attention, or none stands out.

    A span is widened to whole seconds.
    """
    found = [each for each in stats.get("looked_at", ()) if each["spans"]]
    several = len(stats["input"].get("videos", ())) > 1
    parts = []
    for each in found:
        spans = [f"{_clock(math.floor(start))} to {_clock(math.ceil(end))}" for start, end in each["spans"]]
        parts.append((f"video {each['video'] + 1}, " if several else "") + ", ".join(spans))
    return f"looked at {'; '.join(parts)} (by attention, which is no proof)" if parts else ""


def _clock(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return (f"{hours}:" if hours else "") + f"{rest // 60:02d}:{rest % 60:02d}"


def comparison_table(pruned: Stats, full: Stats) -> Table:
    """Return the seconds of the pruned and the unpruned model side by side."""

    def row(name: str, read: Any, digits: int = 3) -> None:
        table.add_row(name, *(f"{read(stats):.{digits}f}" for stats in (pruned, full)))

    def first_token(stats: Stats) -> float:
        return seconds_of(stats, "first_token") or seconds_of(stats, "read", "vision") + prompt_seconds(stats)

    table = Table("seconds", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("pruned", "unpruned"):
        table.add_column(name, justify="right")
    for part, words in _PARTS.items():
        row(words, lambda s, part=part: seconds_of(s, part))
    row("to the first token", first_token)
    row("for each token after it", lambda s: seconds_of(s, "decode_per_token"), 4)
    row("in all", lambda s: s["seconds"]["total"])
    row("tokens generated", lambda s: s["generated_tokens"], 0)
    return table


def details(stats: Stats) -> str:
    """Return what ``--verbose`` adds, as lines; of options those of the methods, which alone were read."""
    options = stats["config"] or {"plan": stats["plan"]}
    if stats.get("methods"):
        options = {name: options[name] for name in READING}
    videos = {each["source"]: each for each in stats["input"].get("videos", ())}
    return outline({**videos, **{name: stats[name] for name in _ABOUT if stats.get(name)}, **options})
