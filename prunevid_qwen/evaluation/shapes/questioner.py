"""Ask a model about one video under one config: the package's own pruning, one batch, one line for each question.

Each look at a video is encoded once, and the stock ``generate`` gets it from memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for, visual_tokens
from prunevid_qwen.adapters.vision import EncodedVideos, vision_from_memory
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.shapes.videos import SECONDS, ShapesVideo
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.forward.vision_evidence import watched_vision
from prunevid_qwen.inputs.qwen.media import MediaReader, Medium
from prunevid_qwen.inputs.qwen.pixels import video_pixels
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.moving_shapes import Question
from prunevid_qwen.receipt import check_applied
from prunevid_qwen.reducer import VisionQuery
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.device import input_device
from prunevid_qwen.tokens.trace import SampleTrace

MAX_NEW_TOKENS = 2  # an answer is one word of the bundled model's; the second shows whether it stops there
_SMALLEST_FRAME = 28 * 28


@dataclass(frozen=True, eq=False)
class Look:
    """A video as one sampling and size show it: what the tower made of it, and the batch of all questions about it.

    Args:
        features: [N, D] the visual tokens that the decoder gets.
        medium: the video without its pixels, to be put into prompts.
    """

    held: EncodedVideos
    features: Tensor
    medium: Medium
    inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Reply:
    """An answer, the visual tokens in each decoder layer, and those left after the last stage with what they hold."""

    given: str
    tokens: list[int]
    left: TokenMap


class Questioner:
    """Asks one model, whose own config is not read, about one video; ``through_files`` by way of a real mp4 file."""

    def __init__(
        self, model: PruneVidQwen25VL, video: ShapesVideo, questions: Sequence[Question], through_files: bool = False
    ) -> None:
        self.model, self.video, self.questions = model, video, questions
        self.through_files = through_files
        # frames of one token a side are a control here, whatever least size the model's folder asks for
        media = model.preprocessor.media
        self.reader = MediaReader(replace(media.video, min_pixels=_SMALLEST_FRAME), media.image)
        self._layers = len(adapter_for(model.model).parts.layers)
        self._looks: dict[tuple[int, int | None, VisionQuery | None], Look] = {}

    @torch.no_grad()
    def look(self, config: PruneVidConfig) -> Look:
        """Encode the video as ``config`` samples and resizes it, once."""
        seen = compile_plan(config, self._layers).needs.vision
        key = (config.max_frames, config.max_pixels, seen)
        if key not in self._looks:
            adapter, medium = adapter_for(self.model.model), self._medium(config)
            held = EncodedVideos(adapter.parts.vision)
            with nullcontext() if seen is None else watched_vision(adapter, seen):
                features = held.encode(medium.pixels, medium.grid)
            shown = replace(medium, pixels=held.hold(features))
            self._looks[key] = Look(held, features.tokens, shown, self._inputs(shown))
        return self._looks[key]

    def ask(self, config: PruneVidConfig) -> list[Reply]:
        """Ask every question under ``config`` in one batch.

        Raises:
            PruningNotApplied: pruning was asked for and did not happen.
        """
        look, stock = self.look(config), self.model.model
        tower = adapter_for(stock).parts.vision
        marks = [torch.from_numpy(self.video.shows(question).any(0)) for question in self.questions]
        with vision_from_memory(tower, look.held), pruned(stock, config, marks) as trace:
            output = stock.generate(**look.inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        check_applied(trace, config, visual_tokens(stock, look.inputs["input_ids"]))
        new = output[:, look.inputs["input_ids"].shape[1] :]
        given = self.model.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [
            Reply(text.strip(), sample.widths(trace.layers), _what_is_left(sample))
            for text, sample in zip(given, trace.samples, strict=True)
        ]

    def lines(self, config: PruneVidConfig) -> list[dict[str, Any]]:
        """Ask every question under ``config``; a JSON-ready line each."""
        visual = self.video.condition.tokens
        same_tokens = self.look(config).features.shape[0] == visual
        out = []
        for number, (question, reply) in enumerate(zip(self.questions, self.ask(config), strict=True)):
            shows = self.video.shows(question)
            recall = evidence_recall(reply.left, shows) if same_tokens and not self.video.blank else None
            left = round(reply.left.n_out / visual, 6)
            out.append(
                {
                    "seed": self.video.seed,
                    "condition": self.video.condition.name,
                    "question": number,
                    "type": question.type,
                    "multiple_choice": question.multiple_choice,
                    "text": question.text,
                    "expected": question.answer,
                    "given": reply.given,
                    "correct": is_correct(reply.given, question.answer),
                    "visual": visual,
                    "tokens": reply.tokens,
                    "layer_average": round(sum(reply.tokens) / (len(reply.tokens) * visual), 6),
                    "retained": left,
                    "evidence": int(shows.any(0).sum()),
                    "evidence_kept": None if recall is None else round(recall, 6),
                    "kept": left,
                }
            )
        return out

    def _medium(self, config: PruneVidConfig) -> Medium:
        if self.through_files:
            with TemporaryDirectory() as folder:
                return self.reader.read_video(str(self.video.write(Path(folder) / "video.mp4")), config)
        frames = self.video.frames(config.max_frames)
        pixels, grid = video_pixels(frames, self.reader.video, config.max_pixels)
        return Medium("video", pixels, grid, 2 * SECONDS / config.max_frames, {})

    def _inputs(self, medium: Medium) -> dict[str, Tensor]:
        samples = []
        for question in self.questions:
            content = [{"type": "video", "video": medium}, {"type": "text", "text": question.text}]
            messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
            if question.answer_prefix:
                messages.append({"role": "assistant", "content": question.answer_prefix})
            samples.append(self.model.preprocessor.sample(messages, PruneVidConfig()))
        batch = self.model.preprocessor.batch(samples)
        device = input_device(self.model.model)
        return {name: value.to(device) for name, value in batch.items()}


def is_correct(given: str, expected: str) -> bool:
    """Judge an answer: its first word, without brackets and stops, must be the expected one, capitals included."""
    words = given.replace("(", " ").replace(")", " ").replace(".", " ").split()
    return bool(words) and words[0] == expected


def evidence_recall(left: TokenMap, shows: np.ndarray) -> float | None:
    """Return which share of what shows the asked-about objects is left after pruning.

    A token that was dropped counts 0. One that was merged counts the share of its group's members that show the same
    object: evidence averaged with background is part evidence.

    Args:
        left: from the video's N tokens to those that are left.
        shows: [objects, N] bool.

    Returns: mean over all (object, token that shows it) in [0, 1], or None when nothing shows any.
    """
    seen = torch.from_numpy(shows)
    target = left.target.cpu()
    inside = target >= 0
    members = torch.bincount(target[inside], minlength=left.n_out).double().clamp(min=1)
    counted = 0.0
    for row in seen:
        same = torch.bincount(target[inside & row], minlength=left.n_out).double()
        counted += float((same * same / members).sum())  # each of the `same` counts same / members
    return counted / int(seen.sum()) if bool(seen.any()) else None


def _what_is_left(sample: SampleTrace) -> TokenMap:
    left = TokenMap.identity(sample.tokens) if sample.merged is None else sample.merged.unmixed
    return left if sample.kept is None else left.then(sample.kept.unmixed)
