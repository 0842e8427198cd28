"""Every way of generating with the glimpse: members of a batch, beams, sampling, stage 1 before it, follow-ups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import TextStreamer

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, PruningNotApplied, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.prefill import Prefill
from prunevid_qwen.forward.probe import check_probe
from prunevid_qwen.reducer import Probe
from prunevid_qwen.stage2_select.glimpse import Glimpse
from prunevid_qwen.stage2_select.glimpse.facts import GlimpseFacts
from tests import flash_attention, glimpse
from tests.models import CASES, MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.pruned_generation import OUT, oracle, same_logits, skip_if_the_library_mixes_beams_up
from tests.test_pruning_equals_masking import TINY
from tests.tolerances import LOGITS, close, tokens_apart

pytestmark = pytest.mark.usefixtures("scores_apart")

ALONE = [[sample] for sample in MIXED]
# attention of two layers, and a drop only after a third
SPREAD = replace(glimpse.FACTS, selected_layers=(0, 2), reduce_layer=3)


def seen_by(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The evidence that the selector is shown, row by row."""
    shown: list[Any] = []
    stock = Glimpse.plan

    def plan(self: Glimpse, seen: Any) -> Any:
        shown.append(seen)
        return stock(self, seen)

    monkeypatch.setattr(Glimpse, "plan", plan)
    return shown


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_batch_is_its_members(attention: str) -> None:
    model, config = tiny_model(attention), glimpse.config()
    whole = make_inputs(MIXED)
    with pruned(model, config) as trace:
        together = model.generate(**whole, max_new_tokens=6, do_sample=False, **OUT)
    kept = [sample.kept for sample in trace.samples]
    images = videos = 0
    for b, sample in enumerate(MIXED):
        own = {name: value[b : b + 1] for name, value in whole.items() if value.shape[0] == len(MIXED)}
        at = whole["attention_mask"][b].bool()
        own = {n: whole[n][b : b + 1, at] for n in ("input_ids", "attention_mask", "mm_token_type_ids")}
        for kind, pixels, grid in (("image", "pixel_values", "image_grid_thw"),
                                   ("video", "pixel_values_videos", "video_grid_thw")):  # fmt: skip
            count = sum(k == kind for k, *_ in sample)
            first = images if kind == "image" else videos
            if not count:
                continue
            sizes = whole[grid].prod(1).tolist()
            own[grid] = whole[grid][first : first + count]
            own[pixels] = whole[pixels][sum(sizes[:first]) : sum(sizes[: first + count])]
            if kind == "video":
                own["second_per_grid_ts"] = whole["second_per_grid_ts"][first : first + count]
                videos += count
            else:
                images += count
        with pruned(model, config) as trace:
            alone = model.generate(**own, max_new_tokens=6, do_sample=False, **OUT)
        mine = trace.samples[0].kept
        assert (mine is None) == (kept[b] is None)
        assert mine is None or torch.equal(mine.rep, kept[b].rep)
        tokens_apart(alone.logits)
        assert torch.equal(alone.sequences[0, -6:], together.sequences[b, -6:])
        for one, other in zip(alone.logits, together.logits, strict=True):
            close(one[0], other[b], LOGITS)


def test_eager_keeps_what_sdpa_keeps() -> None:
    reps = []
    for attention in ("sdpa", "eager"):
        with pruned(tiny_model(attention), glimpse.config()) as trace, torch.no_grad():
            tiny_model(attention)(**make_inputs(RAGGED))
        reps.append([sample.kept.rep for sample in trace.samples])
    assert all(torch.equal(a, b) for a, b in zip(*reps, strict=True))


@pytest.mark.parametrize("facts", [glimpse.FACTS, SPREAD], ids=["one layer", "two layers"])
def test_the_layer_is_the_checkpoints(facts: GlimpseFacts) -> None:
    with pruned(tiny_model(), glimpse.config(facts)) as trace:
        out = tiny_model().generate(**make_inputs(RAGGED), max_new_tokens=4, do_sample=False, **OUT)
    assert trace.layer == facts.reduce_layer
    assert any(sample.after_stage2 < sample.tokens for sample in trace.samples)
    for b, logits in enumerate(oracle(RAGGED, out.sequences, trace, glimpse.config(facts))):
        same_logits(torch.stack(out.logits, 1)[b], logits)


def test_flash_attention_path(monkeypatch: pytest.MonkeyPatch) -> None:
    flash_attention.install(monkeypatch)
    kept = []
    for model in (flash_attention.flash_model(tiny_model("eager")), tiny_model("eager")):
        with pruned(model, glimpse.config()) as trace, torch.no_grad():
            model(**make_inputs(RAGGED))
        kept.append([sample.kept.rep for sample in trace.samples])
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


@pytest.mark.parametrize(
    "mode",
    [
        {"num_beams": 3, "do_sample": False},
        {"num_return_sequences": 2, "do_sample": True},
        {"num_beams": 2, "do_sample": True},
    ],
    ids=["beams", "sequences", "beam sampling"],
)
def test_beams_and_sequences_keep_what_one_row_keeps(mode: dict[str, Any]) -> None:
    skip_if_the_library_mixes_beams_up()
    model, config = tiny_model(), glimpse.config()
    with pruned(model, config) as trace, torch.no_grad():
        model(**make_inputs(RAGGED))
    wanted = [sample.kept.rep for sample in trace.samples]
    torch.manual_seed(0)
    with pruned(model, config) as trace:
        model.generate(**make_inputs(RAGGED), max_new_tokens=3, **mode)
    times = len(trace.samples) // len(wanted)
    assert times > 1
    for number, sample in enumerate(trace.samples):
        assert torch.equal(sample.kept.rep, wanted[number // times])


def test_candidates_of_assisted_decoding_are_not_part_of_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = tiny_model(), glimpse.config()
    inputs = make_inputs(ONE_VIDEO)
    inputs["input_ids"][0, -1] = inputs["input_ids"][0, 0]  # so that what followed it then is guessed from the start
    probes: list[torch.Tensor] = []
    widths: list[int] = []
    stock = Glimpse.plan
    monkeypatch.setattr(Glimpse, "plan", lambda self, seen: probes.append(seen.probe) or stock(self, seen))
    handle = model.model.language_model.register_forward_pre_hook(
        lambda _m, _a, kwargs: widths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    out = []
    for options in ({}, {"prompt_lookup_num_tokens": 3}):
        widths.clear()
        with pruned(model, config):
            out.append(model.generate(**inputs, max_new_tokens=8, do_sample=False, **options))
        assert (widths[0] > inputs["input_ids"].shape[1]) == bool(options), "no candidates, so it proves nothing"
    handle.remove()
    assert torch.equal(*out)
    close(*probes)


@pytest.mark.parametrize("merger", ["prunevid", "rlt", "pool", "random"])
def test_after_stage_1_tokens_bring_the_means_of_their_members(monkeypatch: pytest.MonkeyPatch, merger: str) -> None:
    shown = seen_by(monkeypatch)
    model = tiny_model()
    config = glimpse.config(**{**TINY, "pruning_layer": None, "enable_stage1": True, "merger": merger})
    raw: list[torch.Tensor] = []
    stock = Prefill.of

    def of(cls: Any, *args: Any) -> Any:
        state = stock(*args)
        raw.append(state)
        return state

    monkeypatch.setattr(Prefill, "of", classmethod(of))
    taps: list[Any] = []
    from prunevid_qwen.forward.vision_evidence import VisionEvidence

    take = VisionEvidence.take
    monkeypatch.setattr(VisionEvidence, "take", lambda self, rows: taps.append(take(self, rows)) or taps[-1])
    with pruned(model, config) as trace:
        out = model.generate(**make_inputs(RAGGED), max_new_tokens=6, do_sample=False, **OUT)
    for b, (seen, sample) in enumerate(zip(shown, trace.samples, strict=True)):
        merged = sample.merged
        assert merged is not None
        assert merged.n_out < merged.n_in
        for group in range(merged.n_out):
            members = (merged.target == group).nonzero()[:, 0]
            close(seen.taps[0, group], taps[0][b][members, 0].mean(0))
        grid_cells = torch.cat([torch.arange(block.stop - block.start) for block in sample.blocks])
        assert torch.equal(seen.layout.cell_of, grid_cells[merged.rep])
    for b, logits in enumerate(oracle(RAGGED, out.sequences, trace, config)):
        same_logits(torch.stack(out.logits, 1)[b], logits)


def test_two_runs_and_one_that_raised_leave_nothing_behind() -> None:
    model, config = tiny_model(), glimpse.config()
    vision, root = model.model.visual, model.model
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with pruned(model, config) as trace, torch.no_grad():
        model(**make_inputs(RAGGED))
        first = [sample.kept.rep for sample in trace.samples]
        with pytest.raises(UnsupportedError):  # after the vision tower has run
            model(**make_inputs(RAGGED), use_cache=False, logits_to_keep=1)
        model(**make_inputs(RAGGED))
        assert all(torch.equal(a, s.kept.rep) for a, s in zip(first, trace.samples, strict=True))
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert {name: vars(module).keys() for name, module in model.named_modules()} == {
        name: values.keys() for name, values in before.items()
    }
    assert "forward" not in vars(vision)
    assert not {"get_image_features", "get_video_features", "get_rope_index"} & vars(root).keys()


@pytest.mark.parametrize(("layers", "width", "heads"), [(9, 64, 4), (5, 64, 4), (6, 32, 4), (6, 64, 2)])
def test_a_probe_of_another_model_is_refused(layers: int, width: int, heads: int) -> None:
    said = f"{layers} layers, width {width} and {heads} heads.*6 layers, width 64 and 4 heads"
    with pytest.raises(ConfigError, match=said):
        check_probe(adapter_for(tiny_model()), Probe(torch.zeros(layers, 1, width), (3,), heads))
    check_probe(adapter_for(tiny_model()), Probe(torch.zeros(6, 1, 64), (3,), 4))


def test_a_predictor_of_another_model_is_refused_before_anything_runs() -> None:
    for config, said in (
        (PruneVidConfig(selector="glimpse"), "of 8 layers, width 128 and 4 heads.* 6 layers, width 64"),
        (
            glimpse.config(replace(glimpse.FACTS, layers=9, selected_layers=(7,), reduce_layer=7)),
            "layer 7.*6 layers",
        ),
        (glimpse.config(pruning_layer=3), "trained to act after layer 2 and cannot act after pruning_layer=3"),
    ):
        with pytest.raises(ConfigError, match=said), pruned(tiny_model(), config):
            pass
    with pruned(tiny_model(), glimpse.config(pruning_layer=2)) as trace:
        assert trace.layer == 2


def test_the_api_and_its_receipt() -> None:
    from prunevid_qwen.cli.ask import bundled_clip

    path, question, _ = bundled_clip()
    config = PruneVidConfig(selector="glimpse")
    model = PruneVidQwen25VL("bundled", config, device="cpu")
    streamed: list[str] = []

    class Streamer(TextStreamer):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            streamed.append(text)

    streamer = Streamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    result = model.generate(video_path=path, question=question, max_new_tokens=4, streamer=streamer)
    stage = result["stats"]["stage2"]
    assert "".join(streamed).strip() == result["answer"]
    assert stage["selector"] == "glimpse"
    assert stage["requested_ratio"] is None
    assert stage["threshold"] == 0.5
    assert 0 < stage["kept_tokens"] < stage["original_tokens"]
    assert result["stats"]["seconds"]["select"] > 0
    capped = model.with_config(config.replace(max_keep_ratio=0.02))
    stage = capped.generate(video_path=path, question=question, max_new_tokens=2)["stats"]["stage2"]
    assert stage["kept_tokens"] == max(1, int(0.02 * stage["original_tokens"]))
    fixed = model.with_config(config.replace(keep_threshold=None, keep_ratio=0.25))
    stage = fixed.generate(video_path=path, question=question, max_new_tokens=2)["stats"]["stage2"]
    assert stage["kept_tokens"] == int(0.25 * stage["original_tokens"])
    assert stage["requested_ratio"] == 0.25


def test_a_cap_that_was_passed_over_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunevid_qwen.receipt import check_applied
    from prunevid_qwen.stage2_select.threshold import Budget

    monkeypatch.setattr(Budget, "_best", lambda self, score, probability: torch.arange(score.numel()))
    model = tiny_model()
    for options, refused in (({}, False), ({"max_keep_ratio": 0.5}, True), ({"keep_threshold": None}, True)):
        config = glimpse.config(**options)
        with pruned(model, config) as trace, torch.no_grad():
            model(**make_inputs(CASES["one_video"]))
        if refused:
            with pytest.raises(PruningNotApplied, match="80"):
                check_applied(trace, config)
        else:
            check_applied(trace, config)


def test_adapters_know_both_families() -> None:
    for family, width in (("qwen2_5_vl", 32), ("qwen2_vl", 32)):
        adapter = adapter_for(tiny_model(family=family))
        assert (adapter.hidden_size, adapter.heads, adapter.vision_width) == (64, 4, width)
        config = glimpse.config()
        model = tiny_model(family=family)
        with pruned(model, config) as trace, torch.no_grad():
            model(**make_inputs(ONE_VIDEO, family=family))
        assert 0 < trace.samples[0].after_stage2 < 80
