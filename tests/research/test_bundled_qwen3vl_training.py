"""Training of the second toy: resumable to the bit, and begun from the first toy where both have the parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from research.bundled_model.train import train
from research.bundled_qwen3vl.architecture import build_model
from research.bundled_qwen3vl.questions import begin_from
from research.bundled_qwen3vl.recipe import SecondToy
from research.bundled_qwen3vl.schedule import PHASES

pytestmark = pytest.mark.nightly

SHORT = [replace(phase, steps=2, videos=2) if phase.steps else phase for phase in PHASES]


@pytest.fixture(autouse=True)
def one_thread():
    """Sums must not depend on the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole, finished = train(tmp_path / "whole", SHORT, seed=5, workers=0, recipe=SecondToy())
    assert finished
    for steps in (1, 2, 2, 1):
        pieces, finished = train(tmp_path / "pieces", SHORT, seed=5, steps=steps, workers=0, recipe=SecondToy())
    assert finished
    for name, value in whole.state_dict().items():
        assert torch.equal(value, pieces.state_dict()[name]), name


def test_the_tower_is_frozen_and_exact_while_questions_are_trained(tmp_path):
    trained, _ = train(tmp_path, SHORT, seed=5, workers=0, recipe=SecondToy())
    fresh = build_model(5)
    for part in ("patch_embed.proj", "merger.linear_fc2", "deepstack_merger_list.1.linear_fc2"):
        kernel = trained.model.visual.get_parameter(f"{part}.weight")
        assert torch.equal(kernel, kernel.bfloat16().float())
        assert not torch.equal(kernel, fresh.model.visual.get_parameter(f"{part}.weight"))


def test_the_decoder_begins_with_what_both_toys_have():
    model, teacher = build_model(0), SecondToy().teacher
    begin_from(model, teacher)
    ours, theirs = model.model.language_model, teacher.model.language_model
    assert torch.equal(ours.embed_tokens.weight, theirs.embed_tokens.weight)
    for own, layer in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(own.self_attn.q_proj.weight, layer.self_attn.q_proj.weight)
        rows = {tuple(row) for row in layer.mlp.up_proj.weight.tolist()}
        assert all(tuple(row) in rows for row in own.mlp.up_proj.weight.tolist())
        assert (own.self_attn.q_norm.weight > 0).all()
