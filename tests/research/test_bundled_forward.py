"""The bundled model is trained on the prompts, positions and forward pass that the library gives it afterwards."""

from __future__ import annotations

import pytest
import torch

from prunevid_qwen.adapters.positions import reference_positions
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, make_questions, make_scene, render
from research.bundled_model.architecture import build_model
from research.bundled_model.fast_forward import PIXEL_MEAN, PIXEL_STD, answer_states, patchify, vision_features
from research.bundled_model.sequence import PREFIX, prompt_ids, question_blocks, sequence_positions
from research.bundled_model.tokenizer import VOCABULARY, build_tokenizer
from tests.tolerances import LOGITS, close

pytestmark = pytest.mark.nightly

SEEDS = range(FIRST_HELD_OUT_SEED + 100, FIRST_HELD_OUT_SEED + 102)


@pytest.mark.parametrize("multiple_choice", [False, True])
def test_training_reads_what_the_template_writes(multiple_choice):
    tokenizer = build_tokenizer()
    for question in make_questions(make_scene(SEEDS[0]), 0, multiple_choice):
        content = [{"type": "video"}, {"type": "text", "text": question.text}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        ids = tokenizer(text + question.answer_prefix)["input_ids"]
        video, end = VOCABULARY["<|video_pad|>"], VOCABULARY["<|vision_end|>"]
        assert ids == [*PREFIX, video, end, *prompt_ids(question)]


def test_training_positions_are_those_of_inference():
    for seconds in (0.5, 4 / 3, 2.0):
        ours = sequence_positions((6, 3, 5), seconds, 7, 1, None, after_all=True)
        types = torch.tensor([[0] * len(PREFIX) + [2] * 90 + [0] * 8])
        theirs, _ = reference_positions(types, None, [], [(6, 3, 5)], [seconds], 2.0)
        assert torch.equal(torch.cat([ours.prefix[:, 0], ours.block], 1), theirs[:, 0])


@pytest.mark.parametrize("after_all", [False, True])
@torch.no_grad()
def test_the_training_forward_is_the_librarys(after_all):
    model = build_model(seed=3).eval()
    frames = torch.from_numpy(render(make_scene(SEEDS[1]), 12))[None]
    patches = patchify(frames)
    features = vision_features(model.model.visual, patches, 8, 8)
    mean, std = (torch.tensor(values).repeat_interleave(392) for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = ((patches.flatten(0, 1) / 255 - mean) / std).float()
    grid = torch.tensor([[6, 8, 8]])
    questions = make_questions(make_scene(SEEDS[1]), 0)[:3]
    asked = question_blocks([questions])
    blocks, asked_at = asked.ids, asked.asked_at
    positions = sequence_positions((6, 4, 4), 4 / 3, blocks.shape[-1], 1, None, after_all)
    embed = model.model.language_model.embed_tokens
    end = torch.tensor([VOCABULARY["<|vision_end|>"]])
    prefix = torch.cat([embed(torch.tensor(PREFIX)), features.flatten(0, 1), embed(end)])[None]
    states = answer_states(model, prefix, blocks, positions)
    for n in range(len(questions)):
        length = int(asked_at[0, n]) + 1
        video = torch.full((96,), VOCABULARY["<|video_pad|>"])
        ids = torch.cat([torch.tensor(PREFIX), video, end, blocks[0, n, :length]])[None]
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=pixels,
            video_grid_thw=grid,
            position_ids=torch.cat([positions.prefix[:, 0], positions.block[:, :length]], 1)[:, None],
        ).logits[0, -1]
        close(logits, model.lm_head(states[0, n, length - 1]), LOGITS)
