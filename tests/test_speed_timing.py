"""What the speed benchmark measures with: nothing left on the model, parts that add up, inputs as said, true peaks."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, PruningNotApplied, SetupError
from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.speed.contest import (
    KEEP_EVERYTHING,
    OUT_OF_MEMORY,
    STOCK,
    Competitor,
    Contest,
    competitors,
    control_config,
    measure_overhead,
)
from prunevid_qwen.evaluation.speed.flops import cache_storage
from prunevid_qwen.evaluation.speed.model_shapes import build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs, pixels_of
from prunevid_qwen.evaluation.speed.speed_findings import overhead_of
from prunevid_qwen.evaluation.speed.speed_run import measure_growth, video_features
from prunevid_qwen.evaluation.speed.timed_run import NOT_MEASURED, peak_memory, timed_parts, timed_tokens
from prunevid_qwen.evaluation.speed.vision_flops import check_counted

TINY, CPU = shape_called("tiny"), torch.device("cpu")
PROMPT = PromptSize(4, 4, 5, 12)


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    yield build_model(TINY, CPU, torch.float32, "sdpa")


@pytest.fixture(scope="module")
def inputs(model: Any) -> dict[str, Any]:
    return make_inputs(PROMPT, model)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock takes a second, and nothing else does."""
    now = iter(range(10**6))
    monkeypatch.setattr("prunevid_qwen.tokens.timestamps.time.perf_counter", lambda: float(next(now)))


def hooks_of(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_times_of_tokens_are_taken_as_defined(model, inputs, ticks):
    times, new = timed_tokens(model, inputs, None, 5)
    # looks: start, one a token, end
    assert times == {"first_token": 1.0, "decode_per_token": 1.0, "end_to_end": 6.0}
    assert new.shape == (1, 5)


def test_the_parts_add_up_and_the_decoder_holds_the_stages(model, inputs, ticks):
    parts = timed_parts(model, inputs, PruneVidConfig()).seconds
    assert parts["decoder"] == parts["stage1"] + parts["stage2"] + parts["stage3"] + parts["layers"]
    assert parts["first_token"] == parts["vision"] + parts["decoder"] + parts["lm_head"] + parts["rest"]
    # `pruned` looks at the clock on entering the decoder, after stage 1 and on leaving: all of it must be inside
    alone = timed_parts(model, inputs, PruneVidConfig(enable_stage2=False, enable_cache_compression=False)).seconds
    assert alone["stage1"] >= 1 and alone["decoder"] >= alone["stage1"] + 3
    assert timed_parts(model, inputs, None).seconds["decoder"] == 1


def test_nothing_stays_on_the_model(model, inputs):
    before, hooks = model.generation_config, hooks_of(model)
    timed_parts(model, inputs, PruneVidConfig())
    timed_tokens(model, inputs, PruneVidConfig(), 2)
    assert model.generation_config is before and hooks_of(model) == hooks == 0


def test_the_stock_run_has_no_hook_and_eos_does_not_end_it(model, inputs, monkeypatch):
    seen = []
    original = type(model).generate

    def generate(self, *args, **kwargs):
        seen.append(hooks_of(model))
        assert self.generation_config.eos_token_id is None
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "generate", generate)
    first = int(timed_tokens(model, inputs, None, 2)[1][0, 0])
    model.generation_config.eos_token_id = first
    try:
        assert timed_tokens(model, inputs, None, 4)[1].shape == (1, 4)
        assert seen == [0, 0]
        timed_tokens(model, inputs, PruneVidConfig(), 2)
        assert seen[-1] > 0
    finally:
        model.generation_config.eos_token_id = None


def test_an_answer_of_another_length_is_refused(model, inputs, monkeypatch):
    def one_token_less(self, *args, max_new_tokens, **kwargs):
        return torch.zeros(1, inputs["input_ids"].shape[1] + max_new_tokens - 1, dtype=torch.long)

    monkeypatch.setattr(type(model), "generate", one_token_less)
    with pytest.raises(SetupError, match=r"5 .* 4 "):
        timed_tokens(model, inputs, None, 5)


def test_quantiles_are_the_20_and_80_percent_ones():
    assert Quantiles.of(list(range(11))) == Quantiles(5.0, 2.0, 8.0, 11)


# ---- inputs


@pytest.mark.parametrize(("content", "moving"), [("still", 0), ("half", 10), ("moving", 20)])
def test_the_pixels_move_where_it_is_said(content, moving):
    prompt = PromptSize(6, 4, 5, content=content)
    video = pixels_of(prompt, 0).view(3, 20, -1)
    likeness = torch.nn.functional.cosine_similarity(video[0], video[2], dim=-1)
    assert int((likeness < 0.5).sum()) == moving
    assert torch.equal(pixels_of(prompt, 0), pixels_of(prompt, 0))
    assert not torch.equal(pixels_of(prompt, 0), pixels_of(prompt, 1))


def test_every_row_of_a_batch_has_its_own_video_and_words(model):
    prompt = PromptSize(5, 4, 5, 12, batch=2)
    made = make_inputs(prompt, model)
    assert made["input_ids"].shape == (2, prompt.length) == (2, 3 * 20 + 12)
    pixels = made["pixel_values_videos"].view(2, -1)
    assert not torch.equal(*pixels) and not torch.equal(*made["input_ids"])
    after = (made["input_ids"] == model.config.video_token_id).flip(1).int().argmax(dim=1)
    assert after.tolist() == [prompt.question_tokens] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"content": "movng"}, "moving"), ({"text_tokens": 3}, "text_tokens"), ({"frames": 0}, "frames")],
)
def test_an_impossible_prompt_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PromptSize(**{"frames": 4, "rows": 2, "columns": 2, **options})


def test_an_unknown_shape_is_refused_with_the_nearest_and_a_model_whose_flops_are_not_counted():
    with pytest.raises(ConfigError, match="7b_small"):
        shape_called("7bsmall")
    check_counted(TINY)
    for family in ("qwen3_5", "glm4v"):
        with pytest.raises(ConfigError, match=family):
            check_counted(SimpleNamespace(model_type=family))


# ---- memory


@pytest.mark.nightly
def test_a_peak_is_seen_though_it_is_over_and_what_was_there_before_is_not():
    held = torch.ones(8 * 2**20)  # 32 MiB that were there before
    with peak_memory(CPU) as found:
        work = torch.ones(16 * 2**20)  # 64 MiB
        del work
    if found["how"] == NOT_MEASURED:
        pytest.skip("needs Linux")
    assert found["above"] is not None and 60 * 2**20 < found["above"] < 90 * 2**20, held.numel()
    with peak_memory(CPU) as after:
        pass
    assert after["above"] is not None and after["above"] < 8 * 2**20


@pytest.mark.nightly
def test_memory_that_the_process_holds_free_does_not_hide_what_is_taken():
    def blocks():
        return [bytearray(b"x") * 100_000 for _ in range(400)]  # too small to be given back one by one

    before, pin = blocks(), bytearray(b"x") * 100_000
    del before
    with peak_memory(CPU) as nothing:
        pass
    with peak_memory(CPU) as found:
        work = blocks()
    if found["how"] == NOT_MEASURED:
        pytest.skip("needs Linux")
    assert nothing["above"] is not None and nothing["above"] < 8 * 2**20
    assert found["above"] is not None and found["above"] > 0.8 * len(work) * len(pin)


def test_a_view_into_a_larger_cache_counts_as_the_larger_one():
    class Layer:
        keys, values = torch.zeros(1, 1, 10, 4)[:, :, :3], torch.zeros(1, 1, 3, 4)

    class Cache:
        layers = (Layer,)

    assert cache_storage(Cache) == 4 * 4 * (10 + 3)


# ---- the contest


def test_competitors_keep_their_order_and_names_are_their_own():
    names = [variant.name for variant in competitors(("paper", "recommended"))]
    assert names == [STOCK, KEEP_EVERYTHING, "paper", "recommended", "random", "uniform"]
    for presets, message in (((), "--configs"), (("paper", "paper"), "paper"), (("papr",), "'paper'")):
        with pytest.raises(ConfigError, match=message):
            competitors(presets)
    with pytest.raises(ConfigError, match="glimpse"):
        competitors(("glimpse", "paper"))


def test_keep_everything_encodes_as_the_stock_model_does():
    """However long the video: its tokens are compared with the stock model's, not those of another rounding."""
    (keep,) = [variant for variant in competitors(("paper",)) if variant.name == KEEP_EVERYTHING]
    assert keep.config is not None and keep.config.vision_chunk_tokens is None


@pytest.mark.parametrize(("given", "left"), [(140, 1), (140, 44), (140, 47), (140, 140)])
def test_a_control_keeps_as_many_tokens_as_its_leader(given, left):
    config = control_config("random", PruneVidConfig(), given, left)
    assert max(1, int(given * config.cluster_ratio)) == left
    assert (config.merger_name, config.selector_name) == ("random", "random")
    assert config.keep_ratio == PruneVidConfig().keep_ratio


@pytest.mark.nightly
def test_the_contest_goes_round_in_turns_and_reports_equal_tokens(model, inputs, monkeypatch):
    contest = Contest(model, PROMPT, inputs, competitors(("paper",)), 2)
    found = contest.prepare()
    tokens = {name: (about["facts"]["tokens"]["after_stage1"], about["facts"]["tokens"]["after_stage2"])
              for name, about in found.items()}  # fmt: skip
    assert tokens[STOCK] == tokens[KEEP_EVERYTHING] == (40, 40)
    assert tokens["paper"] == tokens["random"] == tokens["uniform"] and tokens["paper"][1] < 40
    assert found[KEEP_EVERYTHING]["tokens_as_stock"] is True
    turns: list[Any] = []
    monkeypatch.setattr(Contest, "_turn", lambda self, variant: turns.append(variant.name) or {})
    assert len(list(contest.rounds(2))) == 2
    assert turns == [STOCK, KEEP_EVERYTHING, "paper", "random", "uniform"] * 2


@pytest.mark.nightly
def test_keep_everything_that_does_not_is_an_error(model, inputs):
    loses = Competitor(KEEP_EVERYTHING, PruneVidConfig())
    with pytest.raises(PruningNotApplied, match=KEEP_EVERYTHING):
        Contest(model, PROMPT, inputs, [loses], 2).prepare()


@pytest.mark.nightly
def test_who_runs_out_of_memory_leaves_and_the_others_go_on(model, inputs, monkeypatch):
    original = Contest._once

    def once(self, variant):
        if variant.name == "paper":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, variant)

    monkeypatch.setattr(Contest, "_once", once)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    contest = Contest(model, PROMPT, inputs, competitors(("paper",)), 2)
    found = contest.prepare()
    assert found["paper"] == {"error": OUT_OF_MEMORY}
    assert "nothing to follow" in found["random"]["error"]
    assert [variant.name for variant in contest.entered] == [STOCK, KEEP_EVERYTHING]


# ---- overhead and growth


def test_overhead_pairs_neighbours_and_takes_turns_in_front(monkeypatch):
    order: list[bool] = []

    def timed(model, inputs, config, new_tokens):
        order.append(config is None)
        times = {"first_token": 1.0, "decode_per_token": 0.1, "end_to_end": 2.0}
        return ({name: 1.01 * value for name, value in times.items()} if config else times), None

    monkeypatch.setattr("prunevid_qwen.evaluation.speed.contest.timed_tokens", timed)
    found = overhead_of(measure_overhead("tiny", CPU, torch.float32, "sdpa"))
    assert found["generate_share"]["median"] == pytest.approx(0.01)
    assert found["prefill_ms"]["median"] == pytest.approx(10) and found["decode_ms"]["median"] == pytest.approx(1)
    assert order[:4] == [False, True, True, False] and sum(order) == len(order) / 2


@pytest.mark.nightly
def test_growth_fits_the_exponent_of_the_medians(monkeypatch):
    clock = {"seconds": 0.0}

    def stage1(features, config):
        clock["seconds"] = features.shape[0] ** 1.5
        return clock["seconds"], 7

    monkeypatch.setattr("prunevid_qwen.evaluation.speed.speed_run.stage1_seconds", stage1)
    line = measure_growth(CPU, torch.float32, positions=(2, 4, 8))
    assert line["exponent"] == pytest.approx(1.5)
    assert [point["frames"] for point in line["points"]] == [4, 8, 16]


@pytest.mark.nightly
def test_growth_really_runs_stage_1_on_scenes():
    line = measure_growth(CPU, torch.float32, positions=(4, 8))
    for point in line["points"]:
        assert 0 < point["after_stage1"] < point["tokens"] == point["positions"] * 140
        assert point["seconds"]["median"] > 0
    scenes = video_features(41, CPU, torch.float32).flatten(1, 2)
    likeness = torch.nn.functional.cosine_similarity(scenes[:-1], scenes[1:], dim=-1).mean(dim=1)
    cuts = likeness.abs() < 0.2
    assert cuts.nonzero()[:, 0].tolist() == [19, 39] and likeness[~cuts].min() > 0.4
