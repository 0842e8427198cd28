"""Whether the pruned model answers as the unpruned one: by words, or by how likely it finds the other's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.config import ALL_OFF, PruneVidConfig
from prunevid_qwen.config.media_reading import STOCK_ENCODER
from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.inputs.encoding import Progress

WAYS = ("exact", "gap")


@dataclass(frozen=True)
class Agreeing:
    """When two answers to a question agree.

    Args:
        by: "exact": the words are the same, but for their case, blanks and a stop at the end. "gap": they are, or the
            pruned model finds the unpruned model's answer nearly as likely as that model itself does.
        max_gap: in nats a token, above 0: how much less likely at most, the mean over the answer's tokens.
        max_new_tokens: longest answer.

    Raises:
        ConfigError: an unknown way, or a gap that is not above 0.
    """

    by: str = "exact"
    max_gap: float = 0.5
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise ConfigError(unknown("answers are compared by", self.by, WAYS))
        if not self.max_gap > 0:
            raise ConfigError(f"max_gap is a number of nats above 0, got {self.max_gap}")


@dataclass(frozen=True)
class BudgetAnswers:
    """What was answered about one video under one budget, question by question.

    Args:
        answers: of the pruned model.
        agrees: with the unpruned model's.
        kept: layer-averaged share of the visual tokens.
        gaps: nats a token, None by words alone.
    """

    answers: tuple[str, ...]
    agrees: tuple[bool, ...]
    kept: tuple[float, ...]
    gaps: tuple[float, ...] | None = None


@dataclass(frozen=True)
class VideoAnswers:
    """What was answered about one video: by the unpruned model, and under each budget."""

    video: str
    questions: tuple[str, ...]
    unpruned: tuple[str, ...]
    under: Mapping[float, BudgetAnswers]


def same_words(one: str, other: str) -> bool:
    """Tell whether two answers are the same, but for case, blanks and a full stop at the end.

    >>> same_words("A red square.", " a red  square"), same_words("A", "B")
    (True, False)
    """
    return _plain(one) == _plain(other)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def answered(
    model: Any,
    video: str,
    questions: Sequence[str],
    configs: Mapping[float, PruneVidConfig],
    agreeing: Agreeing,
    progress: Progress | None = None,
) -> VideoAnswers:
    """Ask about one video without pruning and under each budget. The video is read and encoded once.

    Args:
        model: a `PrunedVLM`; its config samples the video.
        video: path.
        questions: at least one; all in one batch.
        configs: by budget.
        agreeing: when answers agree.
        progress: called with the frames encoded so far and those of the video.

    Raises:
        MediaError: the video cannot be read.
    """
    stock = model.with_config(model.config.replace(**ALL_OFF, **STOCK_ENCODER))
    prepared = model.prepare(video, list(questions), progress=progress)
    arguments: dict[str, Any] = {"max_new_tokens": agreeing.max_new_tokens, "do_sample": False, "num_beams": 1}
    if agreeing.by == "gap":
        arguments |= {"return_dict_in_generate": True, "output_logits": True}
    first = stock.answer(prepared, **arguments)
    unpruned = tuple(str(each["answer"]) for each in first)
    told = None if agreeing.by == "exact" else _Told.of(first[0]["output"], model.tokenizer.pad_token_id)
    under = {}
    for budget, config in configs.items():
        twin = model.with_config(config)
        found = twin.answer(prepared, **arguments)
        answers = tuple(str(each["answer"]) for each in found)
        agrees = tuple(same_words(*pair) for pair in zip(answers, unpruned, strict=True))
        gaps = None
        if told is not None:
            gaps = (0.0,) * len(answers)
            if not all(agrees):
                forced = twin.answer(prepared, **arguments, prefix_allowed_tokens_fn=told.allowed)
                gaps = told.gaps(forced[0]["output"].logits)
            agrees = tuple(same or gap <= agreeing.max_gap for same, gap in zip(agrees, gaps, strict=True))
        tokens = [each["stats"]["tokens"] for each in found]
        kept = tuple(each["layer_average"] / each["visual"] if each["visual"] else 1.0 for each in tokens)
        under[budget] = BudgetAnswers(answers, agrees, kept, gaps)
    return VideoAnswers(video, tuple(questions), unpruned, under)


class _Told:
    """The unpruned model's answers, token by token, for another to be led along.

    Args:
        new: [B, T] their tokens, filled up behind the end.
        prompt: length of the prompts.
        pad: fills up.
        own: [B] log-probability that the unpruned model gave its answer, the mean over its tokens.
        real: [B, T] bool, what is answer.
    """

    def __init__(self, new: Tensor, prompt: int, pad: int, logits: Sequence[Tensor]) -> None:
        self.new, self.prompt = new, prompt
        self.real = torch.ones_like(new, dtype=torch.bool)
        self.real[:, 1:] = new[:, 1:] != pad
        self.own = self._mean_log_probability(logits)

    @classmethod
    def of(cls, output: Any, pad: int) -> _Told:
        """Take them from what ``generate`` returned."""
        count = len(output.logits)
        return cls(output.sequences[:, -count:], output.sequences.shape[1] - count, pad, output.logits)

    def allowed(self, row: int, ids: Tensor) -> list[int]:
        """Return the one token that may come next, for ``prefix_allowed_tokens_fn``."""
        place = min(len(ids) - self.prompt, self.new.shape[1] - 1)
        return [int(self.new[row, place])]

    def gaps(self, logits: Sequence[Tensor]) -> tuple[float, ...]:
        """Return how much less likely another model finds each answer, in nats a token: the mean, at least 0."""
        return tuple((self.own - self._mean_log_probability(logits)).clamp_min(0).tolist())

    def _mean_log_probability(self, logits: Sequence[Tensor]) -> Tensor:
        steps = torch.stack([each.float().log_softmax(-1) for each in logits], 1)  # [B, T', V]
        count = min(steps.shape[1], self.new.shape[1])
        own = steps[:, :count].gather(2, self.new[:, :count, None].to(steps.device)).squeeze(2)
        real = self.real[:, :count].to(own.device)
        return ((own * real).sum(1) / real.sum(1)).cpu()
