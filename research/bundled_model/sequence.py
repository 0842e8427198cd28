"""The token sequence that the chat template makes of a video and a question, with its positions and targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prunevid_qwen.moving_shapes import Question
from research.bundled_model.fast_forward import Positions
from research.bundled_model.tokenizer import VOCABULARY, encode_words

PREFIX = encode_words("<|im_start|> system you are a helpful assistant . <|im_end|> <|im_start|> user <|vision_start|>")
AFTER_VIDEO = encode_words("<|vision_end|>")
_END = VOCABULARY["<|im_end|>"]
_IGNORED = -100  # of the loss
_ASSISTANT = "<|im_end|> <|im_start|> assistant"


@dataclass(frozen=True)
class Blocks:
    """Questions with their answers as token ids.

    Args:
        ids: [B, N, Q] int64, padded at the end.
        asked_at: [B, N] int64, the place from which the answer is predicted.
        answers: [B, N] int64, the answer's id.
        hints_at: [B, N, 2] int64, the question mark, and the bracket behind a letter.
        hints: [B, N, 2] int64, the id of the answer's word, -100 where there is no letter.
    """

    ids: Tensor
    asked_at: Tensor
    answers: Tensor
    hints_at: Tensor
    hints: Tensor


def question_blocks(questions: list[list[Question]]) -> Blocks:
    """Write questions and answers as token ids, exactly as the chat template lays them out."""
    prompts = [[prompt_ids(question) for question in row] for row in questions]
    longest = max(len(ids) for row in prompts for ids in row) + 2
    blocks = np.full((len(prompts), len(prompts[0]), longest), VOCABULARY["<|endoftext|>"], np.int64)
    asked_at, answers = np.zeros(blocks.shape[:2], np.int64), np.zeros(blocks.shape[:2], np.int64)
    hints_at, hints = np.zeros((*blocks.shape[:2], 2), np.int64), np.full((*blocks.shape[:2], 2), _IGNORED, np.int64)
    for b, row in enumerate(prompts):
        for n, ids in enumerate(row):
            question = questions[b][n]
            answer = VOCABULARY[question.answer]
            behind = VOCABULARY[")"] if question.multiple_choice else _END
            blocks[b, n, : len(ids) + 2] = [*ids, answer, behind]
            asked_at[b, n], answers[b, n] = len(ids) - 1, answer
            hints_at[b, n] = ids.index(VOCABULARY["?"]), len(ids) + 1
            hints[b, n, : 1 + question.multiple_choice] = VOCABULARY[question.word]
    return Blocks(*(torch.from_numpy(part) for part in (blocks, asked_at, answers, hints_at, hints)))


def prompt_ids(question: Question) -> list[int]:
    """Token ids from the question's first word to the last token before the answer."""
    return encode_words(f"{_spaced(question.text)} {_ASSISTANT} {_spaced(question.answer_prefix)}")


def _spaced(text: str) -> str:
    """Put spaces around punctuation and lower all capitals but the options' letters, as the tokenizer does."""
    for mark in "?:().,":
        text = text.replace(mark, f" {mark} ")
    return " ".join(word if len(word) == 1 else word.lower() for word in text.split())


def sequence_positions(
    grid: tuple[int, int, int], seconds_per_grid: float, length: int, batch: int, keep: Tensor | None, after_all: bool
) -> Positions:
    """Give every token its M-RoPE ids.

    Args:
        grid: (t, h, w) merged tokens of the video.
        seconds_per_grid: seconds between temporal positions; 2 ids make a second.
        length: tokens in a question block.
        batch: videos.
        keep: [B, V'] int64, the visual tokens kept, or None for all of them.
        after_all: text goes on after the largest id so far (as Qwen2.5-VL was trained); else after the frame's
            longer side (as recent versions of transformers count).
    """
    start = len(PREFIX)
    t = torch.floor(torch.arange(grid[0]) * seconds_per_grid * 2).long()
    video = torch.stack(torch.meshgrid(t, torch.arange(grid[1]), torch.arange(grid[2]), indexing="ij")) + start
    after = int(video.max()) + 1 if after_all else start + max(grid[1:])
    video = video.reshape(3, 1, -1).expand(3, batch, -1)
    if keep is not None:
        video = video.gather(2, keep[None].expand(3, -1, -1))
    before = torch.arange(start).expand(3, batch, -1)
    behind = (after + torch.arange(len(AFTER_VIDEO))).expand(3, batch, -1)
    block = (after + len(AFTER_VIDEO) + torch.arange(length)).expand(3, -1)
    return Positions(torch.cat([before, video, behind], 2), block)
