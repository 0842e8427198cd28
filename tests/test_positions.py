"""Positions as trained and positions of the library, against tables made by hand."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers

from prunevid_qwen import adapters
from prunevid_qwen.adapters.positions import grid_of, reference_positions
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.version import TESTED
from tests.models import END, ONE_VIDEO, START, VIDEO, make_inputs, tiny_model

# two text tokens, a video of 3 x 1 x 2 merged tokens, two text tokens; 1.5 s a temporal position, 2 ids a second
TYPES = torch.tensor([[0, 0, 2, 2, 2, 2, 2, 2, 0, 0]])
BY_HAND = [
    # text  | t = 2 + floor(i * 1.5 * 2) = 2, 5, 8        | text from 8 + 1
    [0, 1, 2, 2, 5, 5, 8, 8, 9, 10],
    [0, 1, 2, 2, 2, 2, 2, 2, 9, 10],
    [0, 1, 2, 3, 2, 3, 2, 3, 9, 10],
]


def test_reference_by_hand() -> None:
    got, delta = reference_positions(TYPES, None, [], [(3, 1, 2)], [1.5], 2)
    assert got[:, 0].tolist() == BY_HAND
    assert delta.tolist() == [[11 - 10]]


def test_fractions_of_a_second_are_floored_not_the_interval() -> None:
    got, _ = reference_positions(torch.tensor([[2] * 5]), None, [], [(5, 1, 1)], [0.75], 2)
    assert got[0, 0].tolist() == [0, 1, 3, 4, 6]  # floor of 0, 1.5, 3, 4.5, 6


def test_width_can_reach_further_than_time() -> None:
    got, delta = reference_positions(torch.tensor([[2] * 8 + [0]]), None, [], [(2, 1, 4)], [0.5], 2)
    assert got[:, 0].tolist() == [[0] * 4 + [1] * 4 + [4], [0] * 8 + [4], [0, 1, 2, 3] * 2 + [4]]
    assert delta.tolist() == [[5 - 9]]


def test_images_videos_padding_and_batch_order() -> None:
    types = torch.tensor([[0, 0, 1, 1, 0, 2, 2, 0], [0, 2, 2, 2, 2, 0, 0, 0]])
    valid = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [1] * 8])
    got, delta = reference_positions(types, valid, [(1, 2, 1)], [(2, 1, 1), (2, 2, 1)], [2.0, 1.0], 2)
    assert got[:, 0].tolist() == [
        [0, 0, 1, 1, 3, 4, 8, 9],  # an image stands still in time; 2 s a position are 4 ids
        [0, 0, 1, 2, 3, 4, 4, 9],
        [0, 0, 1, 1, 3, 4, 4, 9],
    ]
    assert got[0, 1].tolist() == [0, 1, 1, 3, 3, 4, 5, 6]
    assert delta.tolist() == [[10 - 7], [7 - 8]]


def test_qwen2_vl_counts_time_in_steps_of_one() -> None:
    got, _ = reference_positions(torch.tensor([[2, 2, 2, 0]]), None, [], [(3, 1, 1)], None, None)
    assert got[0, 0].tolist() == [0, 1, 2, 3]


def test_the_default_device_and_dtype_do_not_matter() -> None:
    """A script may set them to the GPU and to half precision; ids are counted on the CPU in fp32 all the same."""
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            got, _ = reference_positions(TYPES, None, [], [(3, 1, 2)], [1.5], 2)
            assert grid_of(got[:, 0, 2:8]) == (3, 1, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.tolist() == [[row] for row in BY_HAND]


@pytest.mark.parametrize(
    ("types", "grids", "message"),
    [
        ([2, 2, 0], [], "more videos than grids"),
        ([2, 2, 0], [(3, 1, 1)], "2 visual tokens stand where"),
        ([2, 2, 0], [(2, 1, 1), (1, 1, 1)], "1 video grids are left over"),
    ],
)
def test_grids_that_do_not_fit(types: list[int], grids: list[tuple[int, int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reference_positions(torch.tensor([types]), None, [], grids, None, 2)


def test_fewer_seconds_than_videos() -> None:
    with pytest.raises(ValueError, match="more videos than seconds_per_grid"):
        reference_positions(torch.tensor([[2, 0, 2]]), None, [], [(1, 1, 1)] * 2, [1.0], 2)


def test_what_the_library_does() -> None:
    """The stock ids since 5.3: text after the video from start + max(h, w), whatever the time axis says."""
    model, inputs = tiny_model(), make_inputs([[("text", 2), ("video", 3, 1, 2), ("text", 2)]])
    inputs["second_per_grid_ts"] = torch.tensor([2.0])  # whole seconds: before 5.18 fractions were cut off
    inputs.pop("attention_mask")
    stock, _ = model.model.get_rope_index(**{k: v for k, v in inputs.items() if not k.startswith("pixel")})
    start = 3  # two text tokens and the vision start
    assert inputs["input_ids"][0, 2:4].tolist() == [START, VIDEO]
    assert stock[0, 0].tolist() == [
        0,
        1,
        2,
        *[start] * 2,
        *[start + 4] * 2,
        *[start + 8] * 2,
        start + 2,
        start + 3,
        start + 4,
    ]
    ours, _ = adapters.adapter_for(model).reference_positions(**inputs)
    assert ours[0, 0].tolist() == [0, 1, 2, *[start] * 2, *[start + 4] * 2, *[start + 8] * 2, 12, 13, 14]
    assert inputs["input_ids"][0, 9] == END


def test_the_canary_sees_that_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    assert not adapters.library_agrees(transformers.__version__)
    adapters.warn_once_about_positions.cache_clear()
    with caplog.at_level(logging.INFO, "prunevid_qwen"):
        for _ in range(2):
            with pruned(tiny_model(), PruneVidConfig()):
                pass
    assert [r.getMessage().split(" places")[0] for r in caplog.records] == [f"transformers {transformers.__version__}"]


@pytest.mark.parametrize(("release", "level"), [(TESTED[-1], logging.INFO), ("99.1.0", logging.WARNING)])
def test_what_is_known_of_a_tested_release_is_no_warning(
    release: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    adapters.warn_once_about_positions.cache_clear()
    with caplog.at_level(logging.INFO, "prunevid_qwen"):
        adapters.warn_once_about_positions(release)
    assert [record.levelno for record in caplog.records] == [level]


@pytest.mark.parametrize("scheme", ["reference", "hf"])
def test_grid_is_read_off_either_scheme(scheme: str) -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    with pruned(model, PruneVidConfig(position_scheme=scheme, pruning_layer=2)) as trace, torch.no_grad():
        model(**inputs)
    assert trace.samples[0].blocks[0].grid == (4, 4, 5)
    assert trace.position_scheme == scheme


def test_a_frame_has_one_time_and_rows_in_order() -> None:
    positions = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]])
    assert grid_of(positions) == (2, 2, 1)
    for row, other in ((0, [0, 1, 1, 1]), (1, [0, 1, 1, 0])):
        broken = positions.clone()
        broken[row] = torch.tensor(other)
        with pytest.raises(ValueError, match="raster"):
            grid_of(broken)


def test_one_dimensional_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        grid_of(torch.arange(6).expand(3, -1))
    inputs = make_inputs(ONE_VIDEO)
    del inputs["mm_token_type_ids"]
    with pruned(tiny_model(), PruneVidConfig(pruning_layer=2)), pytest.raises(ConfigError, match="mm_token_type_ids"):
        tiny_model().generate(**inputs, max_new_tokens=1)


@pytest.mark.parametrize("version", ["4.57.6", "5.3.0", "5.5.4"])
def test_broken_releases_are_refused_with_the_reason(version: str) -> None:
    with pytest.raises(SetupError, match=r"5\.3 to 5\.5.*transformers>=5\.6"):
        adapters.check_transformers(version)


def test_supported_releases_pass() -> None:
    for version in ("5.6.0", "5.17.0", "5.23.0", "6.0.0.dev0"):
        adapters.check_transformers(version)
