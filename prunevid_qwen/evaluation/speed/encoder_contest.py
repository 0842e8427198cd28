"""Measure the time to the first token with the vision encoder in it, of one video, in turns, round by round.

They are the stock model, the presets, two configs whose encoder copies what stands still, and the control that matters:
the stock model on so many fewer frames that it is as fast as `FAST`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import count, repeat
from typing import Any, NamedTuple

import torch

from prunevid_qwen.adapters import adapter_for, visual_tokens
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.typed import named_configs
from prunevid_qwen.evaluation.speed.contest import OUT_OF_MEMORY, STOCK
from prunevid_qwen.evaluation.speed.encoder_findings import FACTS, ROUND
from prunevid_qwen.evaluation.speed.flops import decoder_flops, facts_of
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs
from prunevid_qwen.evaluation.speed.timed_run import TimedParts, peak_memory, timed_parts
from prunevid_qwen.evaluation.speed.video_contents import Content, content_name, content_pixels
from prunevid_qwen.evaluation.store import Lines, Progress
from prunevid_qwen.receipt import check_applied
from prunevid_qwen.vision.windows import windows_in_batches

FAST, FEWER_FRAMES = "fast", "fewer frames"
WINDOWS, STACKED_ON = "stock, windows in batches", ("cuda",)
"""The stock model whose tower attends to windows in batches, as it does inside `pruned`: measured where that pays."""

REUSING = (FAST, "paper+reading.reuse_threshold=8")
"""What is measured beside the stock model and the presets asked for: their encoder copies what stands still."""


class EncoderRun(NamedTuple):
    """One of those that are measured in turns."""

    name: str  # as in tables
    config: PruneVidConfig | None  # None is the stock model without any hook
    size: PromptSize
    inputs: dict[str, Any]  # the prompt as tensors
    within: Callable[[], AbstractContextManager[Any]] = nullcontext  # what the model is inside, beside `pruned`


class EncoderContest:
    """The runs on one video.

    Args:
        model: all of them share it.
        size: of the prompt.
        content: of the video.
        presets: or JSON files of configs, beside `REUSING`.
    """

    def __init__(self, model: Any, size: PromptSize, content: Content, presets: Sequence[str]) -> None:
        self.model, self.size, self.content = model, size, content
        inputs = self._shown(size)
        names = dict.fromkeys((*presets, *REUSING))
        configs = [(name, named_configs(name)[0][1]) for name in names]
        self.entered = [EncoderRun(name, config, size, inputs) for name, config in ((STOCK, None), *configs)]
        if model.device.type in STACKED_ON:
            batched = partial(windows_in_batches, adapter_for(model), STACKED_ON)
            self.entered.insert(1, EncoderRun(WINDOWS, None, size, inputs, batched))

    def _shown(self, size: PromptSize) -> dict[str, Any]:
        pixels = [content_pixels(size, self.content, row) for row in range(size.batch)]
        return make_inputs(size, self.model, torch.cat(pixels))

    def prepare(
        self, frames: int | None = None, tell: Callable[[], None] = lambda: None
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Let every run have two turns, unmeasured, and say what it did; those that cannot run leave the contest.

        Args:
            frames: of the control, where a run that goes on has chosen them; None chooses.
            tell: called after each.

        Returns:
            For each name its config, facts and memory, or an ``error``; and how the control's frames were chosen,
            None where they were not or cannot be.

        Raises:
            PruningNotApplied: a stage was asked for and did not act.
        """
        found: dict[str, Any] = {}
        able, seconds = list[EncoderRun](), dict[str, dict[str, float]]()
        for run in self.entered:
            try:
                found[run.name], seconds[run.name] = self._once(run)
                able.append(run)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                found[run.name] = {"error": OUT_OF_MEMORY}
            tell()
        self.entered, chosen = able, None
        if frames is None and {STOCK, FAST} <= seconds.keys():
            chosen = self._choose(seconds[STOCK], seconds[FAST]["first_token"])
            frames = chosen["frames"]
        if frames is None:
            found[FEWER_FRAMES] = {"error": f"{STOCK} or {FAST} could not run: no time to be equal to"}
        else:
            control = self._stock_on(frames)
            found[FEWER_FRAMES], _ = self._once(control)
            self.entered.append(control)
        tell()
        return found, chosen

    def rounds(self, count: int) -> Iterator[dict[str, dict[str, float]]]:
        """Let every run have its turn, ``count`` times over; yield the seconds of each round's parts."""
        for _ in range(count):
            yield {run.name: self._turn(run).seconds for run in self.entered}

    def _turn(self, run: EncoderRun) -> TimedParts:
        with run.within():
            return timed_parts(self.model, run.inputs, run.config)

    def _once(self, run: EncoderRun) -> tuple[dict[str, Any], dict[str, float]]:
        parts = self._turn(run)
        if parts.trace is not None and run.config is not None:
            check_applied(parts.trace, run.config, visual_tokens(self.model, run.inputs["input_ids"]))
        facts = facts_of(run.size, self.model, run.config, parts)
        # only now: what is allocated once, at the first run, would count against whoever runs first
        with peak_memory(run.inputs["input_ids"].device) as memory:
            seconds = self._turn(run).seconds
        config = None if run.config is None else run.config.flat()
        return {"config": config, "frames": run.size.frames, "facts": facts, "memory": memory}, seconds

    def _stock_on(self, frames: int) -> EncoderRun:
        size = dataclasses.replace(self.size, frames=frames)
        return EncoderRun(FEWER_FRAMES, None, size, self._shown(size))

    def _choose(self, stock: dict[str, float], wanted: float) -> dict[str, Any]:
        step, whole = self.size.form.frames, self.size.frames
        layers = self.model.config.text_config.num_hidden_layers

        def flops(frames: int) -> int:
            return decoder_flops(self.model.config, [dataclasses.replace(self.size, frames=frames).length] * layers)[
                "total"
            ]

        def predicted(frames: int) -> float:
            rest = stock["first_token"] - stock["vision"] - stock["decoder"]
            return rest + stock["vision"] * frames / whole + stock["decoder"] * flops(frames) / flops(whole)

        def measured(frames: int) -> float:
            control = self._stock_on(frames)
            return min(self._turn(control).seconds["first_token"] for _ in range(2))

        counts = range(step, whole + 1, step)
        guess = min(counts, key=lambda frames: abs(predicted(frames) - wanted))
        frames, tried = frames_at(measured, wanted, counts, guess)
        return {"frames": frames, "wanted": wanted, "tried": {str(number): each for number, each in tried.items()}}


def measure_encoder(
    model: Callable[[], Any],
    size: PromptSize,
    content: Content,
    presets: Sequence[str],
    counts: tuple[int, int],
    lines: Lines,
    done: Sequence[dict[str, Any]],
    tell: Progress = lambda *_: None,
) -> None:
    """Measure one video, and append what ``done`` lacks; every round is stored as soon as all have had their turn.

    Args:
        model: returns it; called where something is to be measured.
        size: of the prompt.
        content: of the video.
        presets: as in `EncoderContest`.
        counts: rounds that are to be there in the end, and rounds before those of this call that do not count.
        lines: of the run's folder.
        done: those that the folder held before.
        tell: told how far it is.
    """
    cell = {"frames": size.frames, "batch": size.batch, "content": content}
    held = [line for line in done if cell.items() <= line.items()]
    rounds = counts[0] - sum(line["kind"] == ROUND for line in held)
    if rounds <= 0:
        return
    facts = next((line for line in held if line["kind"] == FACTS), None)
    contest = EncoderContest(model(), size, content, presets)
    total = len(contest.entered) + 1 + counts[1] + rounds
    named = f"{size.frames} frames, batch {size.batch}, {content_name(content)}"
    steps = map(tell, repeat(named), count(), repeat(total))  # each `next` tells of one more
    next(steps)
    before = None if facts is None or facts["chosen"] is None else facts["chosen"]["frames"]
    found, chosen = contest.prepare(before, lambda: next(steps))
    if facts is None:
        lines.add({"kind": FACTS, **cell, "chosen": chosen, "variants": found})
    for _ in contest.rounds(counts[1]):
        next(steps)
    process = time.time()  # tells its rounds from those of a run that went on later
    for times in contest.rounds(rounds):
        lines.add({"kind": ROUND, **cell, "process": process, "times": times})
        next(steps)


def frames_at(
    measured: Callable[[int], float], wanted: float, counts: Sequence[int], guess: int
) -> tuple[int, dict[int, float]]:
    """Find the number of frames whose time is nearest to ``wanted``, from a guess to the first on its other side.

    Args:
        measured: seconds of a number of frames; more frames take longer. Each is asked for once.
        wanted: seconds.
        counts: rising numbers of frames, the guess among them.

    Returns:
        The number, and the seconds of all that were measured.
    """
    place = list(counts).index(guess)
    tried = {guess: measured(guess)}
    step = -1 if tried[guess] > wanted else 1
    while 0 <= place + step < len(counts) and (tried[counts[place]] > wanted) == (step < 0):
        place += step
        tried[counts[place]] = measured(counts[place])
    return min(tried, key=lambda frames: abs(tried[frames] - wanted)), tried
