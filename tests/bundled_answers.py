"""Ask the bundled model many questions about drawn frames in one pass, by the forward that it was trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from prunevid_qwen.moving_shapes import Question
from research.bundled_model.fast_forward import answer_states, patchify, vision_features
from research.bundled_model.sequence import AFTER_VIDEO, PREFIX, question_blocks, sequence_positions
from research.bundled_model.tokenizer import VOCABULARY


@torch.no_grad()
def answer_questions(
    model: Any, frames: np.ndarray, questions: list[Question], seconds: float = 8.0, after_all: bool = True
) -> list[str]:
    """Give the word or letter the model answers each question with.

    Args:
        model: the library's model with the bundled model's tokenizer, float32.
        frames: [F, H, W, 3] uint8 rgb; F even, H and W multiples of 28.
        questions: what is asked, at least one.
        seconds: how long the clip lasts.
        after_all: where text positions start, see ``sequence_positions``.
    """
    count, height, width, _ = frames.shape
    patches = patchify(torch.from_numpy(frames)[None])
    features = vision_features(model.model.visual, patches, height // 14, width // 14).flatten(0, 1)
    blocks = question_blocks([questions])
    grid = (count // 2, height // 28, width // 28)
    positions = sequence_positions(grid, 2 * seconds / count, blocks.ids.shape[-1], 1, None, after_all)
    embed = model.model.language_model.embed_tokens
    around = [embed(torch.tensor(ids)) for ids in (PREFIX, AFTER_VIDEO)]
    prefix = torch.cat([around[0], features, around[1]])[None]
    states = answer_states(model, prefix, blocks.ids, positions)[0]
    best = model.lm_head(states[torch.arange(len(questions)), blocks.asked_at[0]]).argmax(-1)
    words = {number: word for word, number in VOCABULARY.items()}
    return [words.get(number, "<|unk|>") for number in best.tolist()]
