"""VidCom2, DyCoke and FastVID at their edges: what the authors' code refuses, loses or leaves to chance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.method_options import DyCokeOptions, FastVIDOptions, VidCom2Options
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.reducer import most
from prunevid_qwen.stage1_merge import DyCoke, FastVID, VidCom2
from prunevid_qwen.stage1_merge import fastvid as fastvid_file
from prunevid_qwen.stage1_merge.dycoke import least_repeated
from prunevid_qwen.stage1_merge.dyseg import segment_lengths
from prunevid_qwen.stage1_merge.fastvid import Segment, fastvid, segments_of
from prunevid_qwen.stage1_merge.vidcom2 import frame_ratios, outliers, steady_channels, typicality
from tests.families import crossed, family_inputs, family_model
from tests.method_reference import decided, layout_of
from tests.test_flashvid import moving
from tests.tolerances import close

# ---- every family


@pytest.mark.parametrize(("merger", "family"), crossed(["fastvid", "dycoke", "vidcom2", "flashvid"], "fastvid"))
def test_each_merger_acts_on_every_family(merger: str, family: str) -> None:
    """Each row of a batch with several videos and images is as if it were alone, and its budget is kept."""
    images = {} if merger == "dycoke" else {"merge_images": True}
    what = PruneVidConfig(merger=merger, enable_stage2=False, enable_cache_compression=False, **images)
    model = family_model(family)
    if not images and "video" not in adapter_for(model).parts.towers:
        with pytest.raises(ConfigError), pruned(model, what):
            pass
        return
    with pruned(model, what) as trace:
        model.generate(**family_inputs(family, "batch"), max_new_tokens=2)
    shown = [sample for sample in trace.samples if sample.tokens]
    acted = [sample for sample in shown if images or any(block.kind == "video" for block in sample.blocks)]
    assert len(shown) == 2 and acted
    for sample in shown:
        (reduction,) = sample.reductions
        limit = most(what.merger, layout_with(sample.blocks))
        assert limit is not None and reduction.map.n_out <= limit
        assert (reduction.map.n_out < sample.tokens) == (sample in acted)


def layout_with(blocks: Any) -> Any:
    return type("Layout", (), {"blocks": blocks})


# ---- segments


@pytest.mark.parametrize(("similarity", "least", "threshold", "lengths"), [
    ([0.9, 0.5, 0.95, 0.6], 3, 0.1, [2, 2, 1]), ([0.9, 0.5, 0.95, 0.6], 1, 0.7, [2, 2, 1]),
    ([0.9, 0.5, 0.95, 0.6], 4, 0.55, [1, 1, 2, 1]), ([0.5, 0.5, 0.5], 2, 0.1, [1, 3]), ([], 8, 0.9, [1]),
    ([0.9, 0.9], 8, 0.1, [1, 1, 1]), ([0.9, 0.9], 1, 0.1, [3]),
])  # fmt: skip
def test_a_video_falls_apart_where_it_changes(
    similarity: list[float], least: int, threshold: float, lengths: list[int]
) -> None:
    assert segment_lengths(similarity, least, threshold) == lengths


# ---- VidCom2


def test_typicality_is_the_sum_of_gaussians() -> None:
    tokens = moving(3, 5, 1)
    channels = steady_channels(tokens)
    assert torch.equal(channels, tokens.view(15, 12).var(0).argsort()[:6].sort().values)
    unit = torch.nn.functional.normalize(tokens[..., channels].double(), dim=2)
    for found, centre in zip(
        typicality(tokens, channels), (unit.mean((0, 1)), unit.mean(1, keepdim=True)), strict=True
    ):
        square = (unit - centre).square().sum(2)
        close(found, sum((-square / (2 * a)).exp() for a in (1 / 8, 1 / 4, 1 / 2, 1, 2)).float())  # type: ignore[union-attr]


def test_a_frame_unlike_the_video_keeps_more() -> None:
    scores = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.9, 0.9], [1.0, 1.0]])
    ratios = frame_ratios(scores, 0.4)
    close(float(ratios.mean()), 0.4)
    assert ratios.argmax() == 2 and float(frame_ratios(scores, 0.8).max()) == 1.0


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("content", ["equal", "zero", "noise", "half"])
def test_every_frame_keeps_a_token(content: str, frames: int) -> None:
    tokens = {"equal": torch.ones, "zero": torch.zeros}.get(content, torch.randn)(frames, 9, 7)
    tokens = tokens.half() if content == "half" else tokens
    kept = outliers(tokens, 0.01)
    assert torch.bincount(kept // 9, minlength=frames).tolist() == [1] * frames
    if content in ("equal", "zero"):
        assert kept.tolist() == [9 * frame for frame in range(frames)], "of equal tokens the first"


@pytest.mark.parametrize("name", ["vidcom2", "dycoke", "fastvid"])
def test_parts_of_a_long_video_change_nothing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    tokens, salience = moving(9, 12, 3, (5,)), torch.rand(9, 12, generator=torch.Generator().manual_seed(3))
    decide: dict[str, Any] = {
        "vidcom2": lambda: decided(VidCom2(), tokens),
        "dycoke": lambda: decided(DyCoke(), tokens),
        "fastvid": lambda: decided(FastVID(segments=2, segment_threshold=0.5), tokens, pooled=salience),
    }
    whole = decide[name]()
    monkeypatch.setattr(f"prunevid_qwen.stage1_merge.{name}._BYTES", 1)
    parts = decide[name]()
    assert torch.equal(whole.target, parts.target) and torch.equal(whole.rep, parts.rep)
    assert whole.n_out < whole.n_in


# ---- DyCoke


@pytest.mark.parametrize("frames", range(1, 10))
def test_every_length_of_a_video_has_its_groups(frames: int) -> None:
    """The authors' code raises below 5 frames, loses an odd one at the end and spares one of the last group."""
    tokens = torch.randn(frames, 10, 6, generator=torch.Generator().manual_seed(frames))
    wanted = []
    for frame in range(frames):
        earlier = {1: 1, 2: 2, 3: 1}.get(frame % 4)
        alike = [] if earlier is None else torch.cosine_similarity(tokens[frame], tokens[frame - earlier], dim=1)
        places = range(10) if earlier is None else sorted(range(10), key=alike.__getitem__)[:3]
        wanted += sorted(frame * 10 + place for place in places)
    assert least_repeated(tokens, 3).tolist() == wanted
    step = decided(DyCoke(), tokens)
    blocks = layout_of(0, frames * 10, 1).blocks
    assert step.rep.tolist() == wanted and step.n_out == DyCoke().kept_of(frames, 10) and blocks
    assert step.is_identity == (frames == 1)


def test_a_frame_may_lose_all_and_a_video_may_not() -> None:
    assert decided(DyCoke(frame_keep_ratio=0.05), torch.randn(6, 10, 4)).n_out == 20


def test_of_equal_tokens_the_first_stay() -> None:
    assert least_repeated(torch.ones(2, 4, 3), 2).tolist() == [0, 1, 2, 3, 4, 5]
    assert least_repeated(torch.zeros(2, 4, 3), 1).tolist() == [0, 1, 2, 3, 4]


# ---- FastVID

QWEN, ONEVISION = FastVIDOptions(), FastVIDOptions(run_threshold=None, segment_threshold=0.9)


def test_the_last_frame_of_a_run_has_its_budget() -> None:
    own = FastVIDOptions(cluster_ratio=0.5, segments=1, anchor_step=2)
    (segment,) = segments_of([0.96, 0.9, 0.99, 0.9, 0.9], 20, own)  # frames 1, 3, 4 and 5 end their runs
    # 6 frames add 60: 24 for the anchors of frames 5 and 3, at most half of 20 each; 36 salient for four frames
    assert segment == Segment(0, [0, 9, 0, 9, 9, 9], [0, 0, 0, 10, 0, 10])
    (segment,) = segments_of([0.99] * 5, 20, own)  # the last frame has all that it takes
    assert segment == Segment(0, [0, 0, 0, 0, 0, 10], [0, 0, 0, 0, 0, 10])
    assert segments_of([], 20, own) == [Segment(0, [6], [4])]
    (segment,) = segments_of([0.9] * 2, 1, replace(own, context_ratio=1.0))  # frames of one token, and all for anchors
    assert segment == Segment(0, [0, 0, 0], [1, 0, 1])


def test_each_frame_has_its_budget_and_anchor_frames_the_rest() -> None:
    own = FastVIDOptions(cluster_ratio=0.5, segments=1, run_threshold=None, segment_threshold=0.1)
    (segment,) = segments_of([0.9] * 5, 20, own)
    assert segment == Segment(0, [6] * 6, [0, 12, 0, 0, 0, 12])
    own = FastVIDOptions(cluster_ratio=0.9, segments=1, run_threshold=None, segment_threshold=0.1)
    (segment,) = segments_of([0.9] * 7, 20, own)  # 28 for each anchor frame, which has 9 others
    assert segment == Segment(0, [11] * 8, [0, 0, 0, 9, 0, 0, 0, 9])


@pytest.mark.parametrize(
    "own",
    [QWEN, ONEVISION, FastVIDOptions(segments=1, run_threshold=None), FastVIDOptions(segments=1, context_ratio=1.0)],
)
@pytest.mark.parametrize("ratio", [0.01, 0.27, 0.5, 0.99])
@pytest.mark.parametrize("content", ["noise", "equal", "zero"])
def test_no_budget_is_too_much(content: str, ratio: float, own: FastVIDOptions) -> None:
    """The authors' code raises with fewer frames than segments, and with more anchors than a frame has tokens."""
    numbers = torch.Generator().manual_seed(1)
    own = replace(own, cluster_ratio=ratio)
    for shape in ((1, 1), (1, 9), (2, 1), (3, 2), (7, 9), (12, 4)):
        tokens = {"equal": torch.ones, "zero": torch.zeros}.get(content, torch.empty)(*shape, 6)
        tokens = torch.randn(*shape, 6, generator=numbers) if content == "noise" else tokens
        step = fastvid(tokens, torch.rand(shape, generator=numbers), own)
        assert 1 <= step.n_out <= shape[0] * own.budget_of(shape[1]), shape
        assert step.mean(tokens.flatten(0, 1)).isfinite().all(), shape
        if content != "noise":
            close(step.mean(tokens.flatten(0, 1)), tokens.flatten(0, 1)[step.rep])


def test_long_segments_are_cut_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastvid_file, "LONGEST", 3)
    own = FastVIDOptions(segments=1, segment_threshold=0.1)
    lengths = [(segment.start, segment.stop) for segment in segments_of([0.5] * 9, 4, own)]
    assert lengths == [(0, 2), (2, 5), (5, 7), (7, 10)]
    tokens, salience = moving(10, 6, 4), torch.rand(10, 6)
    step = fastvid(tokens, salience, own)
    assert step.mix is not None and step.mix.source.numel() <= 10 * 6 * 3


def test_a_token_goes_with_its_nearest_anchor() -> None:
    """`target`, which overlays and later stages read, names one of the anchors that a token is a part of."""
    tokens, salience = moving(8, 10, 6), torch.rand(8, 10, generator=torch.Generator().manual_seed(6))
    step = fastvid(
        tokens, salience, FastVIDOptions(segments=1, segment_threshold=0.1, run_threshold=0.999, anchor_step=2)
    )
    assert step.mix is not None
    flat = torch.nn.functional.normalize(tokens.flatten(0, 1), dim=1)
    for token in range(80):
        joined = step.mix.group[step.mix.source == token]
        assert int(step.target[token]) in joined
        if token not in step.rep:
            assert len(joined) > 1, "it joins an anchor of each anchor frame"
            best = joined[(flat[step.rep[joined]] @ flat[token]).argmax()]
            assert int(step.target[token]) == int(best)


@pytest.mark.parametrize(("options", "wrong"), [
    (FastVIDOptions, {"segments": 0}), (FastVIDOptions, {"anchor_step": 0}), (FastVIDOptions, {"run_threshold": 0}),
    (FastVIDOptions, {"context_ratio": 1.5}), (FastVIDOptions, {"anchor_weight": None}),
    (FastVIDOptions, {"segment_threshold": -1}), (DyCokeOptions, {"frame_keep_ratio": 0}),
    (DyCokeOptions, {"frame_keep_ratio": 70}), (VidCom2Options, {"cluster_ratio": 0}),
], ids=str)  # fmt: skip
def test_options_out_of_range_are_refused(options: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        options(**wrong)
