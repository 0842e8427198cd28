"""Ask the second toy many questions about drawn frames in one pass, by the forward that it was trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from prunevid_qwen.moving_shapes import Question
from research.bundled_model.fast_forward import answer_states, patchify
from research.bundled_model.sequence import question_blocks
from research.bundled_qwen3vl.fast_forward import vision_features
from research.bundled_qwen3vl.sequence import layout
from research.bundled_qwen3vl.tokenizer import VOCABULARY


@torch.no_grad()
def answer_questions(
    model: Any, frames: np.ndarray, questions: list[Question], seconds: float | None = 8.0, outer: bool = True
) -> list[str]:
    """Give the word or letter the model answers each question with.

    Args:
        model: the library's model with the second toy's tokenizer, float32.
        frames: [F, H, W, 3] uint8 rgb; F even, H and W multiples of 28.
        questions: what is asked, at least one.
        seconds: how long the clip lasts; None: the frames are a picture.
        outer: whether brackets stand around all frames, see ``layout``.
    """
    count, height, width, _ = frames.shape
    patches = patchify(torch.from_numpy(frames)[None])
    made = vision_features(model.model.visual, patches, height // 14, width // 14)
    times = None if seconds is None else [seconds / count * (2 * pair + 0.5) for pair in range(count // 2)]
    blocks = question_blocks([questions])
    grid = (count // 2, height // 28, width // 28)
    laid = layout(grid, times, blocks.ids.shape[-1], None, 1, outer)
    words = model.model.language_model.embed_tokens(laid.ids)
    prefix, *levels = (
        laid.placed(full, level.flatten(0, 1)[None])
        for full, level in zip([words, *[torch.zeros_like(words)] * (len(made) - 1)], made, strict=True)
    )
    states = answer_states(model, prefix, blocks.ids, laid.positions, levels=levels)[0]
    best = model.lm_head(states[torch.arange(len(questions)), blocks.asked_at[0]]).argmax(-1)
    named = {number: word for word, number in VOCABULARY.items()}
    return [named.get(number, "<|unk|>") for number in best.tolist()]
