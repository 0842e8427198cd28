"""Windows in batches: fewer calls of the library's attention, the same outputs, and stock wherever it cannot act."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prunevid_qwen.adapters import adapter_for, tiny
from prunevid_qwen.adapters.vision import taps_of, vision_in_chunks
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.vision_evidence import watched_vision
from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.vision import windows
from prunevid_qwen.vision.windows import MOST_WINDOWS, stacked, windows_in_batches
from tests import flash_attention
from tests.families import FAMILIES
from tests.models import MIXED, make_inputs, tiny_model
from tests.tolerances import LOGITS, close

CPU = ("cpu",)
TOWERS = [name for name in FAMILIES if name.startswith("qwen")]
GRIDS = [[3, 6, 10], [1, 2, 2], [2, 8, 4], [1, 6, 10]]  # a video, two images of it and another, another video
SIDE = 4  # tokens along a window of the published towers


def window_lengths(t: int, h: int, w: int) -> list[int]:
    """Patches of each window of t positions of h x w tokens, by hand."""
    rows, columns = ([min(SIDE, side - at) for at in range(0, side, SIDE)] for side in (h, w))
    return [4 * row * column for _ in range(t) for row in rows for column in columns]


@pytest.mark.parametrize(
    ("frames", "grid", "stock", "ours", "most"), [(32, (10, 14), 5440, 88, 148), (128, (20, 28), 62976, 32, 284)]
)
def test_calls_of_the_7b_tower(frames: int, grid: tuple[int, int], stock: int, ours: int, most: int) -> None:
    """28 blocks see windows of 4 x 4 tokens, 4 see whole positions; the prototype took these one by one."""
    whole = [4 * grid[0] * grid[1]] * (frames // 2)
    parts = window_lengths(frames // 2, *grid)
    assert 28 * len(parts) + 4 * len(whole) == stock
    by_size = [len(stacked(each, lambda _: MOST_WINDOWS).stacks) for each in (parts, whole)]
    assert 28 * by_size[0] + 4 * by_size[1] == ours <= 28 * by_size[0] + 4 * len(whole) == most


@pytest.mark.parametrize("lengths", [[4, 4, 4], [2, 6, 2, 2, 6, 3], [5], [3, 0, 3, 1]])
@pytest.mark.parametrize("most", [1, 2, 100])
def test_stacks_hold_every_patch_once(lengths: list[int], most: int) -> None:
    got = stacked(lengths, lambda _: most)
    rows = torch.arange(sum(lengths))
    placed = rows if got.order is None else got.order
    assert placed.sort().values.tolist() == rows.tolist()
    assert got.place is None or torch.equal(placed[got.place], rows)
    windows_of = [each.tolist() for each in rows.split(lengths) if len(each)]
    found = []
    for stack in got.stacks:
        assert 0 < stack.windows <= most
        found += placed[stack.start : stack.start + stack.windows * stack.size].view(-1, stack.size).tolist()
    assert sorted(found) == sorted(windows_of)
    assert got.longest == max(lengths)
    assert (got.order is None) == (len(set(lengths) - {0}) == 1)


@contextmanager
def attention_calls(monkeypatch: pytest.MonkeyPatch, kind: str = "sdpa") -> Iterator[list[tuple[int, ...]]]:
    """The shapes of the queries of each call of the library's attention of that kind."""
    seen: list[tuple[int, ...]] = []
    stock = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attend(module: nn.Module, queries: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(tuple(queries.shape))
        return stock(module, queries, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setitem(ALL_ATTENTION_FUNCTIONS, kind, attend)
        yield seen


def tower_of(model: Any) -> Any:
    return adapter_for(model).parts.vision


def pixels_for(tower: Any, grids: Sequence[Sequence[int]] = GRIDS) -> tuple[Tensor, Tensor]:
    grid = torch.tensor(grids)
    side = tower.config.patch_size
    pixels = torch.randn(int(grid.prod(1).sum()), 6 * side * side, generator=torch.Generator().manual_seed(1))
    return pixels.to(next(tower.parameters()).dtype), grid


def same(ours: Any, theirs: Any) -> None:
    for name in ("pooler_output", "last_hidden_state"):
        close(ours[name], theirs[name], LOGITS)
    for one, other in zip(*(out.get("deepstack_features", []) for out in (ours, theirs)), strict=True):
        close(one, other, LOGITS)


@torch.no_grad()
@pytest.mark.parametrize("family", TOWERS)
@pytest.mark.parametrize(
    ("attention", "dtype"), [("sdpa", torch.float32), ("sdpa", torch.bfloat16), ("eager", torch.float32)]
)
def test_outputs_are_those_of_the_stock_tower(family: str, attention: str, dtype: torch.dtype) -> None:
    model = tiny_model(attention, family, dtype=dtype)
    tower = tower_of(model)
    pixels, grid = pixels_for(tower)
    stock = tower(pixels, grid_thw=grid)
    with windows_in_batches(adapter_for(model), CPU):
        ours = tower(pixels, grid_thw=grid)
    same(ours, stock)
    assert not torch.equal(stock.pooler_output, stock.pooler_output.roll(1, 0))


@torch.no_grad()
@pytest.mark.parametrize("family", TOWERS)
def test_attention_is_called_once_for_a_size(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family=family)
    tower = tower_of(model)
    pixels, grid = pixels_for(tower)
    whole = {h * w for _, h, w in GRIDS}
    with attention_calls(monkeypatch) as stock:
        tower(pixels, grid_thw=grid)
    with attention_calls(monkeypatch) as ours, windows_in_batches(adapter_for(model), CPU):
        tower(pixels, grid_thw=grid)
    assert len(stock) == len(tower.blocks) * sum(t for t, _, _ in GRIDS)  # all blocks of the tiny towers see positions
    assert len(ours) == len(tower.blocks) * len(whole)
    assert sum(b * n for b, _, n, _ in ours) == sum(b * n for b, _, n, _ in stock)
    assert {b for b, _, n, _ in ours if n == 60} == {4}  # the first video's positions and the last image, together


@torch.no_grad()
def test_windows_and_positions_in_one_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of both kinds take turns, in chunks too; the host asks for each kind of bounds once a call."""
    model = windowed_model()
    tower = tower_of(model)
    pixels, grid = pixels_for(tower)
    stock = tower(pixels, grid_thw=grid)
    asked = []
    monkeypatch.setattr(windows, "stacked", lambda *given: asked.append(given) or stacked(*given))
    with attention_calls(monkeypatch) as calls, windows_in_batches(adapter_for(model), CPU):
        ours = tower(pixels, grid_thw=grid)
    same(ours, stock)
    assert len(asked) == 2
    # windows of 2 x 2 tokens: 16 patches; at the edges of 3 x 5, 1 x 1 and 4 x 2 tokens 8 and 4
    assert len(calls) == 3 * 3 + 3
    with windows_in_batches(adapter_for(model), CPU), vision_in_chunks(tower, 20):
        same(tower(pixels, grid_thw=grid), stock)
    assert len(asked) > 4


def windowed_model() -> Any:
    """Four blocks: three see windows of 2 x 2 tokens, the last whole positions."""
    from tests.test_taps import deep_tower

    return deep_tower()


@torch.no_grad()
def test_eager_scores_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("eager")
    tower = tower_of(model)
    pixels, grid = pixels_for(tower)
    home = inspect.getmodule(type(tower.blocks[0].attn))
    stock, seen = home.eager_attention_forward, list[int]()

    def attend(module: nn.Module, queries: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(queries.shape[0] * queries.shape[1] * queries.shape[2] ** 2)
        return stock(module, queries, *rest, **more)

    plain = tower(pixels, grid_thw=grid)
    monkeypatch.setattr(home, "eager_attention_forward", attend)
    monkeypatch.setattr(windows, "EAGER_SCORES", most := 2 * 2 * 60**2)
    with windows_in_batches(adapter_for(model), CPU):
        same(tower(pixels, grid_thw=grid), plain)
    assert max(seen) <= most and len(seen) > len(tower.blocks) * 3


@torch.no_grad()
def test_a_cpu_keeps_the_librarys_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    model = windowed_model()
    tower = tower_of(model)
    pixels, grid = pixels_for(tower)
    with attention_calls(monkeypatch) as calls:
        stock = tower(pixels, grid_thw=grid)
        plain = list(calls)
        calls.clear()
        with windows_in_batches(adapter_for(model)):
            ours = tower(pixels, grid_thw=grid)
    assert calls == plain and torch.equal(ours.pooler_output, stock.pooler_output)


@torch.no_grad()
def test_one_window_is_the_stock_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    attention = tower_of(model).blocks[0].attn
    pixels, grid = pixels_for(tower_of(model), [[1, 4, 6]])
    stock = tower_of(model)(pixels, grid_thw=grid)
    calls, own = [], type(attention).forward

    @functools.wraps(own)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(attention), "forward", counted)
    with windows_in_batches(adapter_for(model), CPU):
        assert not hasattr(attention.forward, "__func__")
        assert torch.equal(tower_of(model)(pixels, grid_thw=grid).pooler_output, stock.pooler_output)
    assert len(calls) == len(tower_of(model).blocks)


@torch.no_grad()
def test_flash_attention_takes_all_windows_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    flash_attention.install(monkeypatch)
    model = flash_attention.flash_model(tiny_model("eager"))
    tower = tower_of(model)
    monkeypatch.setattr(flash_attention, "CALLS", calls := dict.fromkeys(flash_attention.CALLS, 0))
    pixels, grid = pixels_for(tower)
    with windows_in_batches(adapter_for(model), CPU):
        tower(pixels, grid_thw=grid)
    assert calls["varlen"] == len(tower.blocks)


@torch.no_grad()
@pytest.mark.parametrize("inside", [True, False])
def test_blocks_are_watched_all_the_same(inside: bool) -> None:
    model = windowed_model()
    adapter, tower = adapter_for(model), tower_of(model)
    pixels, grid = pixels_for(tower)
    query = VisionQuery((0, 3), what=("states", "received", "keys", "pooled"))
    with watched_vision(adapter, query):
        stock = taps_of(tower(pixels, grid_thw=grid))
    contexts = [lambda: watched_vision(adapter, query), lambda: windows_in_batches(adapter, CPU)]
    first, second = contexts if inside else reversed(contexts)
    with first(), second():
        ours = taps_of(tower(pixels, grid_thw=grid))
    close(ours, stock, LOGITS)


class Wrapped(nn.Module):
    """A projection without a weight that anybody could read, as of quantised and adapted ones."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.held, self.calls = [inner], 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.held[0](x) + 1.0


@torch.no_grad()
def test_projections_are_called_as_modules() -> None:
    model = copy.deepcopy(tiny_model())
    tower = tower_of(model)
    pixels, grid = pixels_for(tower)
    plain = tower(pixels, grid_thw=grid).pooler_output
    made = []
    for block in tower.blocks:
        block.attn.qkv, block.attn.proj = Wrapped(block.attn.qkv), Wrapped(block.attn.proj)
        made += [block.attn.qkv, block.attn.proj]
    stock = tower(pixels, grid_thw=grid)
    with windows_in_batches(adapter_for(model), CPU):
        same(tower(pixels, grid_thw=grid), stock)
    assert {each.calls for each in made} == {2}
    assert not torch.allclose(stock.pooler_output, plain)


@pytest.mark.parametrize("how", ["own forward", "a norm of the keys", "an argument", "another release"])
def test_an_attention_that_is_not_known_stays_as_it_is(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(tiny_model())
    attention = tower_of(model).blocks[0].attn
    stock = attention.forward
    if how == "own forward":
        attention.forward = own = lambda *args, **kwargs: stock(*args, **kwargs)
    elif how == "a norm of the keys":
        attention.k_norm = nn.LayerNorm(4)
    elif how == "an argument":
        cls = type("Other", (type(attention),), {"forward": lambda self, hidden_states, cu_seqlens, bias: None})
        cls.__module__ = type(attention).__module__
        attention.__class__ = cls
    else:
        monkeypatch.setattr(windows, "transformers_release", lambda: "99.0")
    before = vars(attention).get("forward")
    with windows_in_batches(adapter_for(model), CPU):
        assert vars(attention).get("forward") is before
    assert before is None or before is own


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Torch's varlen attention in plain torch."""
    lengths = cu_seq_q.diff().tolist()
    assert cu_seq_q.dtype == torch.int32 and cu_seq_k is cu_seq_q and max_q == max_k == max(lengths)
    made = zip(*(each.split(lengths) for each in (query, key, value)), strict=True)
    attend = torch.nn.functional.scaled_dot_product_attention
    return torch.cat([attend(*(x.transpose(0, 1) for x in part), scale=scale).transpose(0, 1) for part in made])


@torch.no_grad()
@pytest.mark.parametrize("scales", [True, False])
def test_torchs_varlen_attention_takes_all_windows(scales: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = windowed_model()
    tower = tower_of(model)
    pixels, grid = pixels_for(tower)
    stock, calls = tower(pixels, grid_thw=grid), list[dict[str, Any]]()

    def attend(*given: Any, **more: Any) -> Tensor:
        calls.append(more)
        return varlen_attn(*given, **more)

    monkeypatch.setattr(windows, "_takes_varlen", lambda queries, scale: True)
    monkeypatch.setattr(windows, "_varlen_function", lambda: (attend, scales))
    with windows_in_batches(adapter_for(model), CPU):
        same(tower(pixels, grid_thw=grid), stock)
    assert len(calls) == len(tower.blocks)
    assert all(("scale" in each) == scales for each in calls)


@torch.no_grad()
def test_varlen_is_left_where_a_user_put_his_own_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    model = windowed_model()
    tower = tower_of(model)
    pixels, grid = pixels_for(tower)
    monkeypatch.setattr(windows, "_takes_varlen", lambda queries, scale: True)
    monkeypatch.setattr(windows, "_varlen_function", lambda: pytest.fail("his own was passed by"))
    with attention_calls(monkeypatch) as calls, windows_in_batches(adapter_for(model), CPU):
        tower(pixels, grid_thw=grid)
    assert calls


def test_torchs_own_names() -> None:
    """Where this torch ships it, its arguments are those that are passed; on a CPU it is not asked."""
    found, scales = windows._varlen_function()
    if found is not None:
        names = list(inspect.signature(found).parameters)
        assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
        assert scales == ("scale" in names)
    assert not windows._takes_varlen(torch.zeros(4, 2, 16, dtype=torch.bfloat16), 0.25)


def test_pruned_enters_and_leaves_it() -> None:
    model = tiny.tiny_model("qwen2_5_vl", 6, "sdpa", torch.float32)  # its own: what others asked of a shared one stays
    attention = tower_of(model).blocks[0].attn
    with pytest.raises(RuntimeError, match="mine"), pruned(model):
        assert "forward" in vars(attention)
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        raise RuntimeError("mine")
    assert "forward" not in vars(attention)
    for each in copies:  # stock models, on which it acts as on any
        own = tower_of(each).blocks[0].attn
        assert own.forward.__func__ is type(own).forward and own.forward.__self__ is own
        with windows_in_batches(adapter_for(each), CPU):
            assert not hasattr(own.forward, "__func__")


def test_gradients_pass() -> None:
    model = tiny_model()
    tower = tower_of(model)
    pixels, grid = pixels_for(tower)
    found = []
    for devices in ((), CPU):
        with windows_in_batches(adapter_for(model), devices):
            weight = tower.blocks[0].attn.qkv.weight
            out = tower(pixels, grid_thw=grid).pooler_output
            found += torch.autograd.grad(out.square().sum(), weight)
    close(found[1], found[0], LOGITS)


def test_answers_with_and_without() -> None:
    """Through `generate` of the stock model, with images among the videos."""
    model, inputs = tiny_model(), make_inputs(MIXED)
    out = []
    for devices in ((), CPU):
        with windows_in_batches(adapter_for(model), devices):
            out.append(model.generate(**inputs, max_new_tokens=2, output_logits=True, return_dict_in_generate=True))
    for one, other in zip(*(each.logits for each in out), strict=True):
        close(one, other, LOGITS)
