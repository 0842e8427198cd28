"""Scores: chunks against the law, the law against the model's own attention, both against masks and groups of heads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.kernels import question_attention as kernel
from prunevid_qwen.stage2_select import max_max_scores
from prunevid_qwen.tokens import TokenLayout, TokenMap
from tests.interpreter import needs_interpreter
from tests.models import EOS, RAGGED, VIDEO, make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY
from tests.tolerances import close


def example(heads: int = 6, kv: int = 2, rows: int = 7, length: int = 63, dtype: torch.dtype = torch.float32):  # type: ignore[no-untyped-def]
    numbers = torch.Generator().manual_seed(heads * rows + length)
    q = torch.randn(heads, rows, 16, generator=numbers).to(dtype)
    k = torch.randn(kv, length, 16, generator=numbers).to(dtype)
    columns = torch.randperm(length - rows, generator=numbers)[: max(1, (length - rows) // 2)].sort().values
    return q, k, columns, torch.arange(length - rows, length)


@pytest.mark.parametrize("heads", ["max", "mean"])
@pytest.mark.parametrize("rows", ["max", "mean", "last", "each"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 10**6])
@pytest.mark.parametrize("best", [None, 1, 4, 6])
def test_chunks_equal_the_law(
    monkeypatch: pytest.MonkeyPatch, heads: str, rows: str, causal: bool, chunk: int, best: int | None
) -> None:
    q, k, columns, at = example()
    monkeypatch.setattr(kernel, "CHUNK_BYTES", 4 * q.shape[0] * k.shape[1] * chunk)
    given = (q, k, columns, at if causal else None, 0.25, heads, rows, best)
    close(kernel.question_attention(*given), kernel.reference(*given))


def pulled(rows: int, columns: int) -> kernel.Gravity:
    """All-ones queries and keys at places of their own: some products are large, some below the least."""
    numbers = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 16, generator=numbers), torch.randn(columns, 16, generator=numbers)


@pytest.mark.parametrize(("heads", "rows"), [("mean", "mean"), ("max", "max"), ("mean", "each"), ("max", "last")])
@pytest.mark.parametrize("chunk", [2, 10**6])
@pytest.mark.parametrize("best", [None, 2])
@pytest.mark.parametrize("only", ["heard", "gravity", "both"])
def test_chunks_equal_the_law_with_gravity_and_rows_that_are_not_heard(
    monkeypatch: pytest.MonkeyPatch, heads: str, rows: str, chunk: int, best: int | None, only: str
) -> None:
    q, k, columns, at = example()
    monkeypatch.setattr(kernel, "CHUNK_BYTES", 4 * q.shape[0] * k.shape[1] * chunk)
    heard = None if only == "gravity" else torch.tensor([False, True, True, False, False, True, True])
    gravity = None if only == "heard" else pulled(7, columns.numel())
    given = (q, k, columns, at, 0.25, heads, rows, best, heard, gravity)
    close(kernel.question_attention(*given), kernel.reference(*given))


def test_a_probability_is_divided_by_the_pull_of_its_place() -> None:
    q, k, columns, at = example(heads=6, kv=6)
    ones = pulled(7, columns.numel())
    p = (q.double() @ k.double().transpose(1, 2) * 0.25).masked_fill(torch.arange(63) > at[:, None], float("-inf"))
    pull = (ones[0].double() @ ones[1].double().T * 0.25).clamp(min=1 / 32)
    assert int((pull == 1 / 32).sum()) > 20 and float(pull.max()) > 1
    p = p.softmax(-1)[..., columns] / pull
    heard = torch.tensor([True, False, True, True, False, False, True])
    order = sorted(range(6), key=lambda head: -float(p[head, heard].sum()))
    wanted = p[order[:2]][:, heard].mean((0, 1)).log().float()
    for score in (kernel.question_attention, kernel.reference):
        close(score(q, k, columns, at, 0.25, "mean", "mean", 2, heard, ones), wanted)


@pytest.mark.parametrize("heads", ["max", "mean"])
@pytest.mark.parametrize("best", [None, 2])
def test_each_row_reduced_is_the_reduction(heads: str, best: int | None) -> None:
    q, k, columns, at = example()

    def scores(rows: str) -> torch.Tensor:
        return kernel.question_attention(q, k, columns, at, 0.25, heads, rows, best)

    each = scores("each")
    assert each.shape == (7, columns.numel())
    close(each.exp().mean(0).log(), scores("mean"))
    close(each.amax(0), scores("max"))
    if best is None:  # the best heads are those of the rows that are asked for
        close(each[-1], scores("last"))


def test_the_best_heads_are_those_that_look_at_visual_tokens() -> None:
    q, k, columns, at = example(heads=6, kv=6)
    k[:, columns] += 3 * q[torch.tensor([5, 0, 0, 1, 0, 5]), :1]  # heads 0, 3 and 5 or others: whoever has the most
    p = (q.double() @ k.double().transpose(1, 2) * 0.25).masked_fill(torch.arange(63) > at[:, None], float("-inf"))
    p = p.softmax(-1)[..., columns]
    order = sorted(range(6), key=lambda head: -float(p[head].sum()))
    for best in (1, 2, 5):
        wanted = p[order[:best]].mean(0).mean(0).log()
        close(kernel.question_attention(q, k, columns, at, 0.25, "mean", "mean", best), wanted.float())
        close(kernel.reference(q, k, columns, at, 0.25, "mean", "mean", best), wanted.float())


@pytest.mark.parametrize("score", [kernel.question_attention, kernel.reference])
def test_of_heads_with_equal_sums_the_first_is_taken(score: Callable[..., torch.Tensor]) -> None:
    q, k = torch.eye(2)[:, None], torch.cat([torch.eye(2), torch.zeros(1, 2)])[None]  # each head looks at its column
    seen = score(q, k, torch.tensor([0, 1]), torch.tensor([2]), 1.0, "mean", "mean", 1)
    assert seen[0] > seen[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_input_is_scored_in_fp32(dtype: torch.dtype) -> None:
    given = (*example(dtype=dtype), 0.25)
    close(kernel.question_attention(*given), kernel.reference(*given))


@pytest.mark.parametrize(("heads", "kv", "rows", "length"), [(1, 1, 1, 2), (4, 4, 1, 130), (28, 4, 5, 64)])
def test_odd_sizes(heads: int, kv: int, rows: int, length: int) -> None:
    given = (*example(heads, kv, rows, length), 0.25)
    got = kernel.question_attention(*given)
    assert got.dtype == torch.float32
    close(got, kernel.reference(*given))


REDUCTIONS = (("max", "max"), ("mean", "mean"), ("max", "mean"), ("mean", "max"), ("mean", "last"))
no_warning_of_log_0 = pytest.mark.filterwarnings("ignore:divide by zero encountered in log:RuntimeWarning")


@needs_interpreter
@no_warning_of_log_0
@pytest.mark.parametrize(
    ("heads", "kv", "rows", "length", "dim"),
    [
        (6, 2, 7, 63, 16),
        (1, 1, 1, 2, 128),  # one row, one key before it
        pytest.param(6, 2, 5, 130, 80, marks=pytest.mark.nightly),  # no power of two
        pytest.param(2, 1, 35, 570, 96, marks=pytest.mark.nightly),  # two splits of the keys, two blocks of rows
        pytest.param(
            4, 2, 4, 70, 256, marks=pytest.mark.nightly
        ),  # two rounds of lanes, rows as a multiple of the group
    ],
)
def test_the_gpus_kernel_equals_the_law(heads: int, kv: int, rows: int, length: int, dim: int) -> None:
    from prunevid_qwen.kernels import question_attention_triton

    numbers = torch.Generator().manual_seed(length + dim)
    q = torch.randn(heads, rows, dim, generator=numbers)
    # as the cache hands it over: a part of something longer, heads far apart
    k = torch.randn(kv, length + 3, dim, generator=numbers)[:, 3:]
    columns = torch.randperm(length - rows, generator=numbers)[:70].sort().values
    at = torch.arange(length - rows, length)
    given = [(torch.float32, rows_at, *each) for each in REDUCTIONS for rows_at in (at, None)]
    given += [(dtype, at, *REDUCTIONS[0]) for dtype in (torch.float16, torch.bfloat16)]
    for dtype, rows_at, *reductions in given:
        arguments = (q.to(dtype), k.to(dtype), columns, rows_at, dim**-0.5, *reductions)
        got = question_attention_triton.question_attention(*arguments)
        assert got.dtype == torch.float32
        close(got, kernel.reference(*arguments))


@needs_interpreter
@no_warning_of_log_0
def test_the_gpus_kernel_at_the_edges() -> None:
    """Rows that see different columns, columns that no row sees, no column, mixed types, tensors in other orders."""
    from prunevid_qwen.kernels import question_attention_triton

    q, k, _, _ = example(length=40)
    columns, at = torch.arange(40), torch.tensor([3, 9, 9, 20, 31, 37, 38])
    for reductions in REDUCTIONS:
        given = (q.transpose(0, 1).contiguous().transpose(0, 1), k, columns, at, 0.25, *reductions)
        got = question_attention_triton.question_attention(*given)
        assert got[39] == float("-inf"), "after every question token"
        close(got, kernel.reference(*given))
        mixed = (q, k.double().transpose(1, 2).contiguous().transpose(1, 2), *given[2:])
        close(question_attention_triton.question_attention(*mixed), got)
    assert question_attention_triton.question_attention(q, k, columns[:0], at, 0.25).shape == (0,)
    q, k, _, _ = example(length=600)  # the first rows see nothing of the second split
    given = (q, k, torch.tensor([0, 5, 100, 511, 512, 590]), torch.tensor([3, 9, 100, 400, 511, 512, 599]), 0.25)
    close(question_attention_triton.question_attention(*given), kernel.reference(*given))


@needs_interpreter
@no_warning_of_log_0
def test_the_gpus_kernel_keeps_what_fp32_would_lose() -> None:
    """Of a probability below fp32's smallest the logarithm is still a number; equal inputs give equal bits."""
    from prunevid_qwen.kernels import question_attention_triton

    q, k, columns, at = example()
    given = (q * 1000, k, columns, at, 1.0)
    got = question_attention_triton.question_attention(*given)
    assert kernel.reference(*given).isneginf().any(), "nothing is lost, so this proves nothing"
    close(got, kernel.question_attention(*given))
    assert torch.equal(got, question_attention_triton.question_attention(*given))


def test_unknown_reductions_and_empty_questions_are_refused() -> None:
    q, k, columns, at = example()
    for compute in (kernel.reference, kernel.question_attention):
        with pytest.raises(ValueError, match="got 'sum' and 'max'"):
            compute(q, k, columns, at, 1.0, "sum")
        with pytest.raises(ValueError, match="got 'max' and 'first'"):
            compute(q, k, columns, at, 1.0, "max", "first")
        with pytest.raises(ValueError, match=r"got \[6, 0, 16\]"):
            compute(q[:, :0], k, columns, at[:0], 1.0)
        with pytest.raises(ValueError, match="H a multiple of Hkv"):
            compute(q[:5], k, columns, at, 1.0)


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
                "prunevid_qwen.forward.attention.question_attention",
                lambda *given: seen.append(original(*given)) or seen[-1],
            )
            with pruned(model, config):
                model(**inputs)
    for b, scores in enumerate(seen):
        visual = (inputs["input_ids"][b] == VIDEO).nonzero()[:, 0]
        rows = weights[b][:, int(visual[-1]) + 1 :]
        expected = max_max_scores(rows[..., visual])
        close(scores, expected.log())
    assert len(seen) == 2


@pytest.mark.usefixtures("scores_apart")
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
    got = adapter.one_row_a_token(angle, attention)
    assert got.tolist() == [[0, 0, 1, 1, 1, 2, 2, 2] * 2] * 4


@pytest.mark.parametrize(
    ("asks", "rows"),
    [
        ("all", [slice(-7, None), slice(-8, None)]),  # from <|vision_end|> on
        ("question", [slice(-6, -3), slice(-7, -3)]),
        ("last", [slice(-1, None)] * 2),
    ],
)
def test_the_text_that_asks(asks: str, rows: list[slice]) -> None:
    """The user's words end at the first end token after the video; a later turn's end is not theirs."""
    model, inputs = tiny_model("eager"), make_inputs(RAGGED)
    inputs["input_ids"][:, -3] = EOS
    inputs["input_ids"][0, -2] = EOS
    layer = TINY["pruning_layer"]
    config = PruneVidConfig(**{**TINY, "enable_stage1": False, "position_scheme": "hf", "question_tokens": asks})
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[layer]  # [B, H, S, S]
        with pruned(model, config) as trace:
            model(**inputs)
    for b, sample in enumerate(trace.samples):
        places = (inputs["input_ids"][b] == VIDEO).nonzero()[:, 0]
        expected = max_max_scores(weights[b][:, rows[b]][..., places])
        best = [
            block.start
            + expected[block.start : block.stop].topk(int((block.stop - block.start) * config.keep_ratio))[1]
            for block in sample.blocks
        ]
        assert sample.kept is not None
        assert torch.equal(sample.kept.rep, torch.cat(best).sort().values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ([3, 50, 51, 1, 60], (1, 3)),
        ([50, 51, 1, 60, 1], (0, 2)),
        ([3, 50, 51], None),  # no end: all asks
        ([3, 1, 60, 61], None),  # the user said nothing after the video
        ([1, 60], None),
    ],
)
def test_where_the_users_words_stand(text: list[int], words: tuple[int, int] | None) -> None:
    adapter = adapter_for(tiny_model())
    ids = torch.tensor([20, 1, VIDEO, VIDEO, *text])
    places = torch.zeros(3, len(ids), dtype=torch.long)
    places[2, 3] = 1  # a grid of one row and two columns
    layout = adapter.layout(ids, places, len(ids))
    assert layout is not None
    assert layout.words == words
    left, _ = layout.apply(TokenMap.keep(torch.tensor([1]), 2))
    for each in (layout, left.to(torch.device("cpu"))):
        start, stop = words or (0, len(text))
        first = each.length - len(text)
        assert each.asking("question").tolist() == list(range(first + start, first + stop))
        assert each.asking("all").tolist() == list(range(first, each.length))
        assert each.asking("last").tolist() == [each.length - 1]
    with pytest.raises(ValueError, match="got 'first'"):
        layout.asking("first")
    assert TokenLayout(3, torch.tensor([0]), torch.tensor([1, 2]), (), torch.tensor([0])).asking(
        "question"
    ).tolist() == [1, 2]


def test_candidates_of_assisted_decoding_are_no_words() -> None:
    ids = torch.tensor([VIDEO, 3, 50, 51, 1])
    layout = adapter_for(tiny_model()).layout(ids, torch.zeros(3, 5, dtype=torch.long), 4)
    assert layout is not None
    assert layout.words is None
