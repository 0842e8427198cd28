"""Scores: chunks against the law, the law against the model's own attention, both against masks and groups of heads."""

from __future__ import annotations

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.hooks import pruned
from prunevid_qwen.kernels import question_attention as kernel
from prunevid_qwen.stage2_select import max_max_scores
from tests.models import RAGGED, VIDEO, make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY
from tests.tolerances import CLOSE


def example(heads: int = 6, kv: int = 2, rows: int = 7, length: int = 63, dtype: torch.dtype = torch.float32):  # type: ignore[no-untyped-def]
    numbers = torch.Generator().manual_seed(heads * rows + length)
    q = torch.randn(heads, rows, 16, generator=numbers).to(dtype)
    k = torch.randn(kv, length, 16, generator=numbers).to(dtype)
    columns = torch.randperm(length - rows, generator=numbers)[: max(1, (length - rows) // 2)].sort().values
    return q, k, columns, torch.arange(length - rows, length)


@pytest.mark.parametrize("heads", ["max", "mean"])
@pytest.mark.parametrize("rows", ["max", "mean", "last"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 10**6])
def test_chunks_equal_the_law(monkeypatch: pytest.MonkeyPatch, heads: str, rows: str, causal: bool, chunk: int) -> None:
    q, k, columns, at = example()
    monkeypatch.setattr(kernel, "CHUNK_BYTES", 4 * q.shape[0] * k.shape[1] * chunk)
    given = (q, k, columns, at if causal else None, 0.25, heads, rows)
    torch.testing.assert_close(kernel.question_attention(*given), kernel.reference(*given), **CLOSE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_input_is_scored_in_fp32(dtype: torch.dtype) -> None:
    given = (*example(dtype=dtype), 0.25)
    torch.testing.assert_close(kernel.question_attention(*given), kernel.reference(*given), **CLOSE[torch.float32])


@pytest.mark.parametrize(("heads", "kv", "rows", "length"), [(1, 1, 1, 2), (4, 4, 1, 130), (28, 4, 5, 64)])
def test_odd_sizes(heads: int, kv: int, rows: int, length: int) -> None:
    given = (*example(heads, kv, rows, length), 0.25)
    got = kernel.question_attention(*given)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, kernel.reference(*given), **CLOSE[torch.float32])


def test_the_law_is_the_models_own_attention() -> None:
    """In an unpruned forward with eager attention the library returns the weights that we recompute row by row."""
    model, inputs = tiny_model("eager"), make_inputs(RAGGED)
    layer = TINY["pruning_layer"]
    seen: list[torch.Tensor] = []
    original = kernel.question_attention
    config = PruneVidConfig(**{**TINY, "enable_stage1": False, "position_scheme": "hf"})
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[layer]  # [B, H, S, S]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "prunevid_qwen.prefill.question_attention", lambda *given: seen.append(original(*given)) or seen[-1]
            )
            with pruned(model, config):
                model(**inputs)
    for b, scores in enumerate(seen):
        visual = (inputs["input_ids"][b] == VIDEO).nonzero()[:, 0]
        rows = weights[b][:, int(visual[-1]) + 1 :]
        expected = max_max_scores(rows[..., visual])
        torch.testing.assert_close(scores, expected.log(), **CLOSE[torch.float32])
    assert len(seen) == 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_eager_and_sdpa_keep_the_same_tokens(attention: str) -> None:
    kept = []
    for name in ("sdpa", attention):
        with pruned(tiny_model(name), PruneVidConfig(**TINY)) as trace, torch.no_grad():
            tiny_model(name)(**make_inputs(RAGGED))
        kept.append([sample.kept.rep for sample in trace.samples])
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


def test_angles_of_three_axes_become_one_row_a_token() -> None:
    """Before 5.17 a layer is given one row of angles for each of t, h and w; sections of 2, 3, 3 pairs choose."""
    adapter = adapter_for(tiny_model())
    angle = torch.tensor([0.0, 1.0, 2.0])[:, None, None].expand(3, 4, 16)
    attention = tiny_model().model.language_model.layers[0].self_attn
    got = adapter._one_row_a_token(angle, attention)
    assert got.tolist() == [[0, 0, 1, 1, 1, 2, 2, 2] * 2] * 4
