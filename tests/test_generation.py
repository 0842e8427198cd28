"""Pruned generation in every mode that the stock `generate` has."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.forward.evidence import Sight
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Step, compile_plan
from prunevid_qwen.forward.plan_steps import merge
from prunevid_qwen.forward.prefill import Prefill, SampleState
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.stage1_merge import Pool
from prunevid_qwen.stage3_kv.cache import PrunedCache
from prunevid_qwen.tokens import Block, TokenLayout
from prunevid_qwen.tokens.trace import DOOR
from tests import flash_attention
from tests.models import CACHE, CASES, IMAGE, MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.pruned_generation import CONFIG, OUT, oracle, same_logits, skip_if_the_library_mixes_beams_up
from tests.tolerances import close, tokens_apart

pytestmark = pytest.mark.usefixtures("scores_apart")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sampling(attention: str) -> None:
    model = tiny_model(attention)
    with pruned(model, CONFIG) as trace:
        torch.manual_seed(7)
        out = model.generate(**make_inputs(RAGGED), max_new_tokens=6, do_sample=True, top_k=0, **OUT)
    for b, wanted in enumerate(oracle(RAGGED, out.sequences, trace)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_beams_keep_the_same_tokens_and_score_right(attention: str) -> None:
    skip_if_the_library_mixes_beams_up()
    model = tiny_model(attention)
    with pruned(model, CONFIG) as trace:
        model.generate(**make_inputs(RAGGED), max_new_tokens=2, do_sample=False)
        alone = trace.samples
        out = model.generate(
            **make_inputs(RAGGED), max_new_tokens=5, num_beams=3, num_return_sequences=2, do_sample=False,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    assert len(trace.samples) == 6
    for beam, sample in enumerate(trace.samples):
        assert torch.equal(sample.kept.rep, alone[beam // 3].kept.rep)
        assert torch.equal(sample.merged.target, alone[beam // 3].merged.target)
    prompt = make_inputs(RAGGED)["input_ids"].shape[1]
    trace.samples = alone
    for place in range(2):
        sequences = out.sequences[place::2]
        for b, logits in enumerate(oracle(RAGGED, sequences, trace)):
            log_p = logits.log_softmax(-1)[range(5), sequences[b, prompt:]]
            close(log_p.mean(), out.sequences_scores[2 * b + place])


def test_several_sequences_of_one_prompt() -> None:
    model = tiny_model()
    with pruned(model, CONFIG) as trace:
        torch.manual_seed(3)
        out = model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=4, do_sample=True, num_return_sequences=3, **OUT)
    assert out.sequences.shape[0] == len(trace.samples) == 3
    assert all(torch.equal(s.kept.rep, trace.samples[0].kept.rep) for s in trace.samples)


@pytest.mark.parametrize("case", ["one_video", "ragged", "one_shrinks", "mixed"])
def test_flash_attention_path(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    flash_attention.install(monkeypatch)
    model = flash_attention.flash_model(tiny_model("eager"))
    calls = dict.fromkeys(flash_attention.CALLS, 0)
    monkeypatch.setattr(flash_attention, "CALLS", calls)
    with pruned(model, CONFIG) as trace:
        out = model.generate(**make_inputs(CASES[case]), max_new_tokens=5, do_sample=False, **OUT)
    for b, wanted in enumerate(oracle(CASES[case], out.sequences, trace)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)
    if case == "one_video":
        # the one block of the vision tower packs its frames; in the decoder it would mean gaps in the text positions
        assert calls["varlen"] == model.config.vision_config.depth


def test_streamer_gets_every_token() -> None:
    class Streamer:
        seen: list[int]

        def put(self, value: torch.Tensor) -> None:
            self.seen.append(value.numel())

        def end(self) -> None:
            self.seen.append(-1)

    model, streamer, inputs = tiny_model(), Streamer(), make_inputs(ONE_VIDEO)
    streamer.seen = []
    with pruned(model, CONFIG):
        model.generate(**inputs, max_new_tokens=4, do_sample=False, streamer=streamer)
    assert streamer.seen == [inputs["input_ids"].numel(), 1, 1, 1, 1, -1]


@pytest.mark.parametrize("stages", [{}, {"enable_cache_compression": False}, {"enable_stage1": False}])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_prompt_lookup_is_greedy(attention: str, stages: dict[str, Any]) -> None:
    """Candidates stand behind the prompt in the first forward: they are no question, and come off the cache again."""
    model, config = tiny_model(attention), CONFIG.replace(**stages)
    samples = [[("text", 4), ("video", 4, 4, 5), ("text", 6)]]
    inputs = make_inputs(samples)
    # a question that repeats itself, so that candidates are found
    inputs["input_ids"][0, -6:] = inputs["input_ids"][0, -6:-3].repeat(2)
    with pruned(model, config) as trace:
        greedy = model.generate(**inputs, max_new_tokens=16, do_sample=False, **OUT)
        tokens_apart(greedy.logits)
        kept = trace.samples[0].kept.rep
        lookup = model.generate(**inputs, max_new_tokens=16, do_sample=False, prompt_lookup_num_tokens=3)
        assert torch.equal(trace.samples[0].kept.rep, kept)
    assert torch.equal(lookup, greedy.sequences)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_batch_equals_its_members(attention: str) -> None:
    model = tiny_model(attention)
    with pruned(model, CONFIG) as trace:
        together = model.generate(**make_inputs(MIXED), max_new_tokens=6, do_sample=False, **OUT)
        samples = trace.samples
        kept = [None if s.kept is None else s.kept.rep for s in samples]
        embeds = make_inputs(MIXED)
        for b in range(3):
            alone = model.generate(**member(embeds, MIXED, b), max_new_tokens=6, do_sample=False, **OUT)
            one = trace.samples[0]
            assert (one.kept is None) == (kept[b] is None)
            if one.kept is not None:
                assert torch.equal(one.kept.rep, kept[b])
                assert torch.equal(one.merged.target, samples[b].merged.target)
            same_logits(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0])


def test_rows_of_one_length_are_decided_one_by_one() -> None:
    """Beams are equal rows and are decided once; two videos of one size are not."""
    model, samples = tiny_model(), ONE_VIDEO * 2
    inputs = make_inputs(samples)
    assert bool(inputs["attention_mask"].all())
    with pruned(model, CONFIG) as trace:
        together = model.generate(**inputs, max_new_tokens=3, do_sample=False, **OUT)
        merged = [sample.merged.target for sample in trace.samples]
        for b in range(2):
            alone = model.generate(**member(inputs, samples, b), max_new_tokens=3, do_sample=False, **OUT)
            assert torch.equal(trace.samples[0].merged.target, merged[b])
            same_logits(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0])
    assert not torch.equal(*merged), "both merge alike, so this proves nothing"


def test_beams_are_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_if_the_library_mixes_beams_up()
    calls: list[int] = []
    door = compile_plan(CONFIG, 6).door
    assert door is not None
    method = type(door.by)
    plan = method.plan
    monkeypatch.setattr(method, "plan", lambda self, seen: calls.append(seen.layout.length) or plan(self, seen))
    with pruned(tiny_model(), CONFIG):
        tiny_model().generate(**make_inputs(RAGGED), max_new_tokens=2, num_beams=3, do_sample=False)
    assert len(calls) == 2


def test_equal_rows_of_another_grid_are_merged_apart() -> None:
    grids, tokens = ((2, 2, 4), (4, 2, 2)), torch.randn(16, 8).abs()
    embeds = torch.cat([tokens, torch.ones(1, 8)])[None].repeat(2, 1, 1)  # what differs is the grid alone
    rows = []
    for grid in grids:
        block = (Block("video", grid, 0, 16),)
        layout = TokenLayout(17, torch.arange(16), torch.tensor([16]), block, torch.zeros(16, dtype=torch.long))
        rows.append(SampleState(layout, 17, layout))
    state = Prefill(rows, PrunedCache(), 17, 0, torch.ones(2, 17, dtype=torch.bool), None)
    step = Step(DOOR, Pool(0.25))
    merge(state, step, Sight(state, adapter_for(tiny_model()), step, 0, embeds, lambda: (embeds, embeds)), Needs())
    boxes = [Pool(0.25).plan(Evidence(row.start, tokens, tokens[:0])) for row in rows if row.start is not None]
    for row, expected, grid in zip(rows, boxes, grids, strict=True):
        assert torch.equal(row.reductions[0].map.target, expected.target)
        assert row.layout is not None and row.layout.blocks[0].grid == grid
    assert not torch.equal(boxes[0].target, boxes[1].target)


@pytest.mark.parametrize("case", ["images", "one_video"])
def test_a_plain_forward_prunes_too(case: str) -> None:
    """Without `generate` the pixels arrive as they are, not encoded ahead."""
    with pruned(tiny_model(), CONFIG) as trace, torch.no_grad():
        tiny_model()(**make_inputs(CASES[case]))
    assert 0 < trace.samples[0].after_stage2 < trace.samples[0].tokens


def member(inputs: dict[str, Any], samples: Any, b: int) -> dict[str, Any]:
    """Cut one row, its pads and the pixels of others off."""
    valid = inputs["attention_mask"][b].bool()
    out = {k: inputs[k][b : b + 1, valid] for k in ("input_ids", "attention_mask", "mm_token_type_ids")}
    for kind, grid, pixels in (
        ("video", "video_grid_thw", "pixel_values_videos"), ("image", "image_grid_thw", "pixel_values"),
    ):  # fmt: skip
        counts = [sum(item[0] == kind for item in sample) for sample in samples]
        first, count = sum(counts[:b]), counts[b]
        if count:
            sizes = inputs[grid].prod(-1).tolist()
            out[grid] = inputs[grid][first : first + count]
            out[pixels] = inputs[pixels][sum(sizes[:first]) : sum(sizes[: first + count])]
            if kind == "video":
                out["second_per_grid_ts"] = inputs["second_per_grid_ts"][first : first + count]
    return out


def test_a_generated_placeholder_is_text() -> None:
    """A random model does answer with an image token; no pixels come with it."""
    model = tiny_model()
    with pruned(model, CONFIG), torch.no_grad():
        out = model(**make_inputs(ONE_VIDEO))
        length = make_inputs(ONE_VIDEO)["input_ids"].shape[1]
        step = model(input_ids=torch.tensor([[IMAGE]]), **{CACHE: cache_of(out)})
    assert step.logits.shape[1] == 1
    assert cache_of(step).get_seq_length() == length + 1


def test_text_only_prompts_pass_untouched() -> None:
    model, samples = tiny_model(), [[("text", 9)], [("text", 5)]]
    stock = model.generate(**make_inputs(samples), max_new_tokens=4, do_sample=False)
    with pruned(model, CONFIG) as trace:
        ours = model.generate(**make_inputs(samples), max_new_tokens=4, do_sample=False)
        static = model.generate(**make_inputs(samples), max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(stock, ours)
    assert torch.equal(stock, static)
    assert [s.tokens for s in trace.samples] == [0, 0]


def test_bfloat16_runs() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    with pruned(model, CONFIG) as trace:
        model.generate(**make_inputs(RAGGED), max_new_tokens=3)
    assert trace.samples[0].after_stage2 < trace.samples[0].tokens


def test_accelerate_offload_keeps_the_same_tokens() -> None:
    import accelerate

    model = copy.deepcopy(tiny_model())
    with pruned(tiny_model(), CONFIG) as trace:
        wanted = tiny_model().generate(**make_inputs(RAGGED), max_new_tokens=3, do_sample=False)
        kept = [s.kept.rep for s in trace.samples]
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with pruned(model, CONFIG) as trace:
        got = model.generate(**make_inputs(RAGGED), max_new_tokens=3, do_sample=False)
    assert torch.equal(got, wanted)
    assert all(torch.equal(a, b.kept.rep) for a, b in zip(kept, trace.samples, strict=True))


def test_gradients_reach_every_layer() -> None:
    """The decision is taken without gradients; what is kept passes them on."""
    model = copy.deepcopy(tiny_model())
    with pruned(model, CONFIG):
        model(**make_inputs(ONE_VIDEO)).logits[0, -1].square().sum().backward()
    layers = [layer.mlp.down_proj.weight.grad for layer in model.model.language_model.layers]
    assert all(grad is not None and bool(grad.any()) for grad in [*layers, model.get_input_embeddings().weight.grad])


def test_an_assistant_model_changes_nothing() -> None:
    with pruned(tiny_model(), CONFIG) as trace:
        greedy = tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=8, do_sample=False)
        kept = trace.kept[0]
        assisted = tiny_model().generate(
            **make_inputs(ONE_VIDEO), max_new_tokens=8, do_sample=False, assistant_model=tiny_model(layers=3)
        )
        assert torch.equal(trace.kept[0], kept)
    assert torch.equal(assisted, greedy)
