"""Training of the bundled model: seeded, resumable to the bit, never looking at what answers must not depend on."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from prunevid_qwen.inputs.qwen.pixels import PixelOptions, video_pixels
from prunevid_qwen.moving_shapes import QUESTION_TYPES, make_scene, render
from prunevid_qwen.processes.interruption import signal_of
from research.bundled_model import batches
from research.bundled_model import train as bundled_training
from research.bundled_model.architecture import build_model, deepen
from research.bundled_model.export import export_model
from research.bundled_model.fast_forward import PIXEL_MEAN, PIXEL_STD, patchify
from research.bundled_model.phases import DeepenPhase, QuestionPhase, VisionPhase
from research.bundled_model.schedule import PHASES, shortened
from research.bundled_model.train import train
from tests.tolerances import close

pytestmark = pytest.mark.nightly

SHORT = (
    VisionPhase("vision", steps=3, videos=2, patches=2),
    QuestionPhase("ask", steps=3, types=QUESTION_TYPES, weights={}, frames=(8,), sizes=((56, 84),), videos=2),
)


@pytest.fixture(autouse=True)
def one_thread():
    """Two models this small only get in each other's way on more; and sums must not depend on the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole, finished = train(tmp_path / "whole", SHORT, seed=5, workers=0)
    assert finished
    for steps in (2, 2, 2):
        pieces, finished = train(tmp_path / "pieces", SHORT, seed=5, steps=steps, workers=0)
    assert finished
    other, _ = train(tmp_path / "other", SHORT, seed=6, workers=0)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, pieces.state_dict()[name]), name
    assert not torch.equal(whole.lm_head.weight, other.lm_head.weight)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "curve.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["step"]) for line in lines] == [("vision", 3), ("ask", 3)]


def test_a_deepened_model_answers_as_before_and_goes_on(tmp_path):
    phases = (SHORT[0], SHORT[1], DeepenPhase("deepen", layers=8), replace(SHORT[1], name="again", clutter_share=0.5))
    whole, _ = train(tmp_path / "whole", phases, seed=5, workers=0)
    for steps in (6, 2, 2):
        pieces, finished = train(tmp_path / "pieces", phases, seed=5, steps=steps, workers=0)
    assert finished and len(whole.model.language_model.layers) == whole.config.text_config.num_hidden_layers == 8
    for name, value in whole.state_dict().items():
        assert torch.equal(value, pieces.state_dict()[name]), name
    assert whole.model.language_model.layers[7].mlp.down_proj.weight.abs().max() > 0  # it is trained
    fresh, deeper = build_model(3), build_model(3)
    deepen(deeper, 8, seed=0)
    ids = torch.arange(20)[None]
    assert torch.equal(fresh(input_ids=ids).logits, deeper(input_ids=ids).logits)
    with pytest.raises(ValueError, match="cannot be deepened"):
        deepen(deeper, 6, seed=0)


def test_a_run_can_begin_with_exported_weights(tmp_path):
    trained, _ = train(tmp_path / "first", SHORT[:1], workers=0)
    kernel = trained.model.visual.patch_embed.proj.weight.clone()
    export_model(trained, tmp_path / "model")
    more, _ = train(tmp_path / "more", SHORT, workers=0, weights=tmp_path / "model", begin="ask")
    assert torch.equal(more.model.visual.patch_embed.proj.weight, kernel)
    with pytest.raises(ValueError, match="no phase is called 'asking'; there are vision, ask"):
        train(tmp_path / "more", SHORT, begin="asking")


def test_an_interruption_leaves_a_checkpoint(tmp_path):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, SHORT, workers=0, report=interrupt)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (saved["phase"], saved["step"]) == (0, 3)


def test_a_signal_in_a_step_finishes_and_saves_it(tmp_path, monkeypatch, as_in_a_terminal):
    update = bundled_training._update

    def signalled(*given: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return update(*given)

    with monkeypatch.context() as patch:
        patch.setattr(bundled_training, "_update", signalled)
        with pytest.raises(KeyboardInterrupt) as raised:
            train(tmp_path / "stopped", SHORT[:1], workers=0)
    assert signal_of(raised.value) == signal.SIGTERM
    saved = torch.load(tmp_path / "stopped" / "checkpoint.pt", weights_only=True)
    assert (saved["phase"], saved["step"]) == (0, 1)
    stopped, _ = train(tmp_path / "stopped", SHORT[:1], workers=0)
    whole, _ = train(tmp_path / "whole", SHORT[:1], workers=0)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, stopped.state_dict()[name]), name


def test_the_vision_tower_is_frozen_and_exact_while_questions_are_trained(tmp_path):
    trained, _ = train(tmp_path, SHORT, workers=0)
    fresh = build_model(0)
    kernel = trained.model.visual.patch_embed.proj.weight
    assert torch.equal(kernel, kernel.bfloat16().float())  # what is shipped is what the decoder learnt on
    assert not torch.equal(kernel, fresh.model.visual.patch_embed.proj.weight)
    assert not any(parameter.grad is not None for parameter in trained.model.visual.parameters())


def test_left_out_tokens_show_no_object():
    rng = np.random.default_rng(0)
    cover = np.stack([batches.token_cover(make_scene(seed), np.arange(16) / 15).max(0) for seed in range(6)])
    cover = cover.reshape(6, -1)
    for _ in range(20):
        keep = batches._drop_background(rng, cover).numpy()
        assert keep.shape[1] < cover.shape[1]
        for row, kept in zip(cover, keep, strict=True):
            assert set(np.flatnonzero(row > 0)) <= set(kept)
            assert (np.diff(kept) > 0).all()


def test_labels_name_the_object_under_the_token():
    batch = batches.VisionBatches(VisionPhase("vision", steps=1, videos=3), (0, 0))[0]
    assert batch.colors.shape == (batch.patches.shape[0], batch.patches.shape[1] // 4)
    assert torch.equal(batch.colors > 0, batch.shapes > 0) and torch.equal(batch.colors > 0, batch.directions > 0)
    assert 0 < (batch.colors > 0).float().mean() < 0.6


def test_patches_are_the_librarys_order():

    frames = render(make_scene(7, height=84, width=140), 4)
    pixels, grid = video_pixels(frames, PixelOptions(max_pixels=84 * 140))
    assert grid.tolist() == [[2, 6, 10]]
    mean, std = (torch.tensor(values).repeat_interleave(392) for values in (PIXEL_MEAN, PIXEL_STD))
    ours = (patchify(torch.from_numpy(frames)[None]).flatten(0, 1) / 255 - mean) / std
    close(ours, pixels)


def test_a_share_of_the_schedule_keeps_every_phase():
    short = shortened(PHASES, 0.001)
    assert [phase.name for phase in short] == [phase.name for phase in PHASES]
    assert all((phase.steps >= 1) == (whole.steps >= 1) for phase, whole in zip(short, PHASES, strict=True))
