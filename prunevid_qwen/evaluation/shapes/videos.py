"""The videos of the benchmark (kinds of moving shapes, a seed each), and a model that is asked about one of them.

The package's own pruning, all questions in one batch; each look at a video is encoded once, and the stock ``generate``
gets it from memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prunevid_qwen import moving_shapes
from prunevid_qwen.adapters import adapter_for, visual_tokens
from prunevid_qwen.adapters.vision import EncodedVideos, vision_from_memory
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.forward.reuse import encoding_ahead
from prunevid_qwen.inputs.qwen.feed import planner_of
from prunevid_qwen.inputs.qwen.media import MediaReader, Medium
from prunevid_qwen.inputs.qwen.pixels import video_pixels
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, Question, Scene
from prunevid_qwen.moving_shapes.conditions import SECONDS, Condition
from prunevid_qwen.moving_shapes.cover import LEAST_COVER, token_cover
from prunevid_qwen.receipt import check_applied
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.device import input_device
from prunevid_qwen.video.sampling import choose_frames
from prunevid_qwen.vision.carried import Carried
from prunevid_qwen.vision.options import vision_options

FIRST_SEED = FIRST_HELD_OUT_SEED + 3_000_000
"""Where the benchmark's videos begin, unless told otherwise."""

CALIBRATION_SEED = FIRST_HELD_OUT_SEED + 4_000_000
"""Where the videos begin on which configs are fitted to a budget: never asked for an answer."""

CALIBRATION_VIDEOS = 48
_FILE_RATE = 16  # frames a second of files
_GREY = 128
_MAX_NEW_TOKENS = 2  # an answer is one word of the bundled model's; the second shows whether it stops there


@dataclass(frozen=True)
class ShapesVideo:
    """One video of the benchmark, not drawn yet; a ``blank`` one is grey, and its length, size and questions stay."""

    condition: Condition
    seed: int
    blank: bool = False

    @property
    def name(self) -> tuple[str, int]:
        """Condition and seed."""
        return self.condition.name, self.seed

    @cached_property
    def scene(self) -> Scene:
        """The shapes and how they move."""
        return self.condition.scene(self.seed)

    def frames(self, count: int, scale: int = 1) -> np.ndarray:
        """Draw ``count`` evenly spaced frames, ``scale`` times as large: [count, H, W, 3] uint8 rgb."""
        frames = moving_shapes.render(self.scene, count, scale=scale)
        return np.full_like(frames, _GREY) if self.blank else frames

    def write(self, path: Path) -> Path:
        """Write the video as a file of twice its size, 8 seconds long."""
        return moving_shapes.write_video(path, self.frames(int(SECONDS * _FILE_RATE), 2), _FILE_RATE)

    def questions(self, count: int) -> list[Question]:
        """Choose ``count`` questions, half one-word and half multiple choice, types taking turns; always the same."""
        rng = np.random.default_rng([self.seed, 4])
        asked = (moving_shapes.make_questions(self.scene, self.seed, choice) for choice in (False, True))
        words, letters = (_spread(rng, questions) for questions in asked)
        half = (count + 1) // 2
        return words[:half] + letters[: count - half]

    def shows(self, question: Question, grid: tuple[int, int] | None = None) -> np.ndarray:
        """Tell which tokens show which object the question is about: [objects asked about, T * h * w] bool.

        Args:
            question: about this video.
            grid: (h, w) tokens down and across a frame; None is a token for every 28 pixels.
        """
        cover = token_cover(self.scene, moving_shapes.frame_times(self.condition.frames), grid)
        return cover.reshape(len(cover), -1)[list(question.objects)] > LEAST_COVER

    @staticmethod
    def timestamps(count: int) -> tuple[float, ...]:
        """Seconds at which ``count`` evenly spaced frames are shown, as they are read from the file."""
        shown = [frame / _FILE_RATE for frame in range(int(SECONDS * _FILE_RATE))]
        return choose_frames(shown, 1 / _FILE_RATE, max_frames=count).times


class Look(NamedTuple):
    """A video as one sampling and size show it."""

    held: EncodedVideos
    features: Tensor  # [N, D], the visual tokens that the decoder gets, without what DeepStack adds later
    medium: Medium  # without its pixels, to be put into prompts
    inputs: dict[str, Tensor]  # the batch of all questions about it
    encoded: float  # visual tokens, averaged over the vision encoder's blocks: a copy runs through none, or a few


class Questioner:
    """Asks one model, whose own config is not read, about one video; ``through_files`` by way of a real mp4 file.

    Raises:
        UnsupportedError: the model takes other inputs than those of Qwen's families, whose frames are drawn here.
    """

    def __init__(
        self, model: PruneVidQwen25VL, video: ShapesVideo, questions: Sequence[Question], through_files: bool = False
    ) -> None:
        self.model, self.video, self.questions = model, video, questions
        self.through_files = through_files
        self.adapter = adapter_for(model.model)
        media = model.preprocessor.media
        # sizes are those of the condition and of the config, whatever the model's folder asks for at least and at most
        kind, whole, one = video.condition, media.video.whole, media.video.factor**2
        pixels = kind.height * kind.width
        whole = whole and replace(whole, least=one, most=kind.frames * pixels)
        self.reader = MediaReader(replace(media.video, min_pixels=one, whole=whole), media.image)
        fit = self.reader.video.for_video(kind.frames, kind.height, kind.width, pixels)
        rows, columns = (side // fit.factor for side in fit.fit(kind.height, kind.width))
        self.visual = kind.frames // fit.temporal_patch_size * rows * columns  # tokens of the whole video
        self.shows = [video.shows(question, (rows, columns)) for question in questions]
        self._looks: dict[Any, Look] = {}
        self._file = b""

    @torch.no_grad()
    def look(self, config: PruneVidConfig) -> Look:
        """Encode the video as ``config`` samples and resizes it, once."""
        plan = compile_plan(config, len(self.adapter.parts.layers))
        key = config.max_frames, config.max_pixels, plan.needs.vision, plan.vision
        if key not in self._looks:
            medium, held = self._medium(config), EncodedVideos(self.adapter.parts.vision)
            reuse = None if medium.encoded is None else Carried(medium.encoded)
            with encoding_ahead(self.adapter, plan):
                features = held.encode(medium.pixels, medium.grid, reuse)
            shown = replace(medium, pixels=held.hold(features))
            at_the_door = features.tokens[:, : self.model.model.config.get_text_config().hidden_size]
            ran = None if features.source is None else float(features.source[:, 1].sum())
            encoded = len(features.tokens) if ran is None else ran / len(self.adapter.vision_blocks)
            self._looks[key] = Look(held, at_the_door, shown, self._inputs(shown), encoded)
        return self._looks[key]

    def prompt(self, config: PruneVidConfig) -> dict[str, Tensor]:
        """Return the batch of all questions with the video's pixels, as ``config`` samples and resizes them."""
        return self._inputs(self._medium(config))

    def ask(self, config: PruneVidConfig) -> list[dict[str, Any]]:
        """Ask every question under ``config`` in one batch; a JSON-ready line each.

        Raises:
            PruningNotApplied: pruning was asked for and did not happen.
        """
        look, stock, visual, shows = self.look(config), self.model.model, self.visual, self.shows
        marks = [torch.from_numpy(each.any(0)) for each in shows]
        with vision_from_memory(self.adapter.parts.vision, look.held), pruned(stock, config, marks) as trace:
            output = stock.generate(**look.inputs, max_new_tokens=_MAX_NEW_TOKENS, do_sample=False)
        check_applied(trace, config, visual_tokens(stock, look.inputs["input_ids"]))
        new, out = output[:, look.inputs["input_ids"].shape[1] :], []
        said = self.model.tokenizer.batch_decode(new, skip_special_tokens=True)
        for number, (question, sample) in enumerate(zip(self.questions, trace.samples, strict=True)):
            maps, tokens = (each.map.unmixed for each in sample.reductions), sample.widths(trace.layers)
            left = reduce(lambda one, other: one.then(other.to(one.rep.device)), maps, TokenMap.identity(sample.tokens))
            same_tokens = sample.tokens == visual and not self.video.blank
            recall = evidence_recall(left, shows[number]) if same_tokens else None
            out.append(
                {
                    "seed": self.video.seed,
                    "condition": self.video.condition.name,
                    "question": number,
                    "type": question.type,
                    "multiple_choice": question.multiple_choice,
                    "text": question.text,
                    "expected": question.answer,
                    "given": said[number].strip(),
                    "correct": is_correct(said[number], question.answer),
                    "visual": visual,
                    "tokens": tokens,
                    "layer_average": round(sum(tokens) / (len(tokens) * visual), 6),
                    "vision_average": round(look.encoded / visual, 6),
                    "text_tokens": round(sum(sample.text_widths(trace.layers)) / trace.layers, 3),
                    "retained": round(left.n_out / visual, 6),
                    "evidence": int(shows[number].any(0).sum()),
                    "evidence_kept": None if recall is None else round(recall, 6),
                    "kept": round(left.n_out / visual, 6),
                }
            )
        return out

    def _medium(self, config: PruneVidConfig) -> Medium:
        if self.through_files:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "video.mp4"
                if self._file:
                    path.write_bytes(self._file)
                else:  # encoding takes longer than all that is read from it
                    self._file = self.video.write(path).read_bytes()
                return self.reader.read_video(str(path), config)
        count = config.max_frames
        pixels, grid = video_pixels(self.video.frames(count), self.reader.video, config.max_pixels)
        vision = vision_options(config.reading)
        encoded = planner_of(vision, self.reader.video).plan(pixels, int(grid[0, 0])) if vision.reuses else None
        # a model that writes times into the prompt writes those of the file
        return Medium("video", pixels, grid, 2 * SECONDS / count, {"timestamps": self.video.timestamps(count)}, encoded)

    def _inputs(self, medium: Medium) -> dict[str, Tensor]:
        samples = []
        for question in self.questions:
            content = [{"type": "video", "video": medium}, {"type": "text", "text": question.text}]
            messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
            if question.answer_prefix:
                messages.append({"role": "assistant", "content": question.answer_prefix})
            samples.append(self.model.preprocessor.sample(messages, PruneVidConfig()))
        device = input_device(self.model.model)
        return {name: value.to(device) for name, value in self.model.preprocessor.batch(samples).items()}


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
    seen, target = torch.from_numpy(shows), left.target.cpu()
    inside = target >= 0
    members = torch.bincount(target[inside], minlength=left.n_out).double().clamp(min=1)
    counted = 0.0
    for row in seen:
        same = torch.bincount(target[inside & row], minlength=left.n_out).double()
        counted += float((same * same / members).sum())  # each of the `same` counts same / members
    return counted / int(seen.sum()) if bool(seen.any()) else None


def _spread(rng: np.random.Generator, questions: list[Question]) -> list[Question]:
    """Order questions so that any beginning holds as many types as it can: a round of all types, then another."""
    seen, rounds = Counter[str](), []
    shuffled = [questions[k] for k in rng.permutation(len(questions))]
    for question in shuffled:
        rounds.append(seen[question.type])
        seen[question.type] += 1
    return [shuffled[k] for k in np.argsort(rounds, kind="stable")]
