"""Benchmarks encode ahead of asking: under the config's own options of the vision encoder, never under another's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from prunevid_qwen import get_baseline_config, get_config
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.vision import EncodedVideos
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.engine.answering import Answerer, Encoded
from prunevid_qwen.evaluation.engine.task_media import ReadMedia
from prunevid_qwen.evaluation.shapes.videos import FIRST_SEED, Questioner, ShapesVideo
from prunevid_qwen.inputs.qwen.feed import planner_of
from prunevid_qwen.inputs.qwen.pixels import fitted_pixels
from prunevid_qwen.vision.options import VisionOptions
from prunevid_qwen.vision.tower import reusing
from tests.accuracy_model import PLAIN, bundled

from .tolerances import FEATURES, close

VIDEO = next(  # in which something moves, so that a copy is not what the stock encoder makes
    each for each in (ShapesVideo(PLAIN, FIRST_SEED + number) for number in range(20))
    if any(item.direction != "still" and not item.appears for item in each.scene.objects)
)  # fmt: skip
STOCK = get_baseline_config().replace(max_pixels=112 * 112)
REUSE = STOCK.replace(reuse_threshold=8.0)
FRAMES = VIDEO.frames(16)
PIXELS, GRID = fitted_pixels(FRAMES, bundled().preprocessor.media.video)


def reused(options: VisionOptions) -> torch.Tensor:
    """The oracle: the tower called once, inside the context itself."""
    adapter = adapter_for(bundled().model)
    with reusing(adapter, options):
        return EncodedVideos(adapter.parts.vision).encode(PIXELS, GRID).tokens


def planned_share(threshold: float) -> float:
    planner = planner_of(VisionOptions(reuse_threshold=threshold), bundled().preprocessor.media.video)
    return float(planner.plan(PIXELS, int(GRID[0, 0])).double().mean())


# ---- the accuracy benchmark


def test_a_look_is_encoded_as_its_config_says_and_shared_by_no_other() -> None:
    questioner = Questioner(bundled(), VIDEO, VIDEO.questions(2))
    stock, look = questioner.look(STOCK), questioner.look(REUSE)
    close(look.features, reused(VisionOptions(reuse_threshold=8.0)), FEATURES)
    assert not torch.equal(stock.features, look.features)
    assert questioner.look(REUSE.replace(keep_ratio=0.3)) is look


def test_an_answer_says_how_much_was_encoded() -> None:
    questioner = Questioner(bundled(), VIDEO, VIDEO.questions(2))
    share = planned_share(8.0)
    assert 0 < share < 0.9
    assert {line["vision_average"] for line in questioner.ask(STOCK)} == {1.0}
    assert {line["vision_average"] for line in questioner.ask(REUSE)} == {round(share, 6)}
    assert {line["vision_average"] for line in questioner.ask(STOCK.replace(max_frames=8))} == {0.5}
    (early,) = {line["vision_average"] for line in questioner.ask(STOCK.replace(early_tau=0.9, early_block=0))}
    assert 0.25 + 0.75 / 8 <= early < 1  # one of four blocks ran on all units, the others on a position at least


def test_equal_positions_of_a_grey_video_are_encoded_once() -> None:
    grey = Questioner(bundled(), replace(VIDEO, blank=True), VIDEO.questions(1))
    (line,) = grey.ask(STOCK.replace(reuse_identical=True))
    assert line["vision_average"] == round(1 / 8, 6)


def test_through_files_the_same_is_said() -> None:
    questioner = Questioner(bundled(), VIDEO, VIDEO.questions(1), through_files=True)
    (line,) = questioner.ask(REUSE)
    assert 0 < line["vision_average"] < 1


# ---- benchmarks and batches of questions


def encoded_under(config: PruneVidConfig, encoded: Encoded) -> torch.Tensor:
    held, media = encoded.under(config)
    assert held is not None and len(media) == 1
    return held.features[0].tokens


def test_tasks_are_encoded_as_each_config_says_in_chunks_as_at_once() -> None:
    configs = (("stock", STOCK), ("reuse", REUSE), ("fast", get_config("fast")))
    encoded = Encoded(Answerer(bundled(), configs, {}), [ReadMedia("video", FRAMES, 1.0, (), {})])
    whole = reused(VisionOptions(reuse_threshold=8.0))
    close(encoded_under(REUSE, encoded), whole, FEATURES)
    assert not torch.equal(encoded_under(STOCK, encoded), encoded_under(REUSE, encoded))
    assert encoded_under(get_config("fast"), encoded) is not encoded_under(REUSE, encoded)
    for tokens in (16, 48):
        parts = Encoded(Answerer(bundled(), configs, {}), [ReadMedia("video", FRAMES, 1.0, (), {})])
        close(encoded_under(REUSE.replace(vision_chunk_tokens=tokens), parts), whole, FEATURES)


def test_what_a_chunk_copies_is_numbered_in_the_whole_video() -> None:
    still = np.repeat(FRAMES[:2], 8, axis=0)  # two pictures, four positions of each
    config = STOCK.replace(reuse_identical=True, vision_chunk_tokens=32)
    encoded = Encoded(Answerer(bundled(), (("it", config),), {}), [ReadMedia("video", still, 1.0, (), {})])
    held, _ = encoded.under(config)
    assert held is not None
    source = held.features[0].source
    assert source is not None and source[:, 0].view(8, 16)[:, 0].tolist() == [0] * 4 + [64] * 4
    assert source[:, 1].view(8, 16)[:, 0].tolist() == [4, 0, 0, 0] * 2
