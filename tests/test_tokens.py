"""TokenMap's algebra, and TokenLayout.apply."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunevid_qwen.forward.padding import consecutive
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap
from tests.tolerances import close


@st.composite
def token_maps(draw: st.DrawFn, n_in: int | None = None) -> TokenMap:
    n_in = draw(st.integers(1, 12)) if n_in is None else n_in
    n_out = draw(st.integers(1, n_in))
    rest = draw(st.lists(st.integers(-1, n_out - 1), min_size=n_in - n_out, max_size=n_in - n_out))
    target = draw(st.permutations([*range(n_out), *rest]))
    rep = draw(st.lists(st.integers(0, n_in - 1), min_size=n_out, max_size=n_out))
    stratum = draw(st.none() | st.lists(st.integers(0, 3), min_size=n_out, max_size=n_out))
    return TokenMap(torch.tensor(target), torch.tensor(rep), None if stratum is None else torch.tensor(stratum))


def same(a: TokenMap, b: TokenMap) -> bool:
    strata = (a.stratum is None) == (b.stratum is None) and (a.stratum is None or torch.equal(a.stratum, b.stratum))
    return strata and torch.equal(a.target, b.target) and torch.equal(a.rep, b.rep)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_composition_is_associative(data: st.DataObject) -> None:
    a = data.draw(token_maps())
    b = data.draw(token_maps(a.n_out))
    c = data.draw(token_maps(b.n_out))
    assert same(a.then(b).then(c), a.then(b.then(c)))


@given(token_maps())
@settings(max_examples=60, deadline=None)
def test_identity_changes_nothing(step: TokenMap) -> None:
    assert same(TokenMap.identity(step.n_in).then(step), step)
    assert same(step.then(TokenMap.identity(step.n_out)), step)
    assert TokenMap.identity(step.n_in).is_identity


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_places_compose(data: st.DataObject) -> None:
    a = data.draw(token_maps())
    b = data.draw(token_maps(a.n_out))
    x = torch.arange(a.n_in) * 10
    assert torch.equal(a.then(b).take(x, 0), b.take(a.take(x, 0), 0))


@given(token_maps(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
@settings(max_examples=60, deadline=None)
def test_mean_is_the_mean_of_the_members(step: TokenMap, dtype: torch.dtype) -> None:
    x = torch.randn(step.n_in, 2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = x.clone()
    got = step.mean(x)
    expected = torch.stack([x[step.target == j].double().mean(0) for j in range(step.n_out)])
    computed = torch.float32 if dtype == torch.float64 else dtype  # fp64 is averaged in fp32 too
    close(got.double(), expected, dtype=computed)
    assert got.dtype == dtype
    assert torch.equal(x, before)
    for j in (step.sizes == 1).nonzero()[:, 0].tolist():
        assert torch.equal(got[j], x[step.target == j][0].float().to(dtype)), "a group of one is exact"


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_selection_is_exact_and_restores_order(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12))
    index = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    step = TokenMap.keep(torch.tensor(index), n)
    x = torch.randn(n, 4, dtype=torch.float64)
    assert step.rep.tolist() == sorted(index)
    assert step.is_selection
    assert torch.equal(step.mean(x), x[sorted(index)])
    assert step.is_identity == (len(index) == n)


@given(st.lists(token_maps(), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_concat_keeps_blocks_and_strata_apart(maps: list[TokenMap]) -> None:
    whole = TokenMap.concat(maps)
    start_in = start_out = 0
    seen: set[int] = set()
    for each in maps:
        target = whole.target[start_in : start_in + each.n_in]
        assert torch.equal(torch.where(target >= 0, target - start_out, target), each.target)
        assert torch.equal(whole.rep[start_out : start_out + each.n_out] - start_in, each.rep)
        if whole.stratum is not None:
            part = whole.stratum[start_out : start_out + each.n_out]
            own = torch.zeros_like(each.rep) if each.stratum is None else each.stratum
            assert torch.equal(part - part.min(), own - own.min())
            assert not seen & set(part.tolist())
            seen |= set(part.tolist())
        start_in, start_out = start_in + each.n_in, start_out + each.n_out


@pytest.mark.parametrize(
    ("target", "rep", "stratum", "say"),
    [
        ([0, 2], [0, 1], None, "target must lie"),
        ([0, -2], [0], None, "target must lie"),
        ([0, 1], [0, 2], None, "rep must lie"),
        ([0, 0], [0, 1], None, "needs a member"),
        ([0, 1], [0, 1], [0], "stratum has 1"),
    ],
)
def test_broken_maps_are_refused(target: list[int], rep: list[int], stratum: list[int] | None, say: str) -> None:
    with pytest.raises(ValueError, match=say):
        TokenMap(torch.tensor(target), torch.tensor(rep), None if stratum is None else torch.tensor(stratum))


def test_maps_of_other_sizes_do_not_compose() -> None:
    with pytest.raises(ValueError, match="cannot compose: 3"):
        TokenMap.identity(3).then(TokenMap.identity(2))


def layout() -> TokenLayout:
    """Text, a 2 x 1 x 2 video, text, an image of 3, two question tokens."""
    visual = torch.tensor([1, 2, 3, 4, 6, 7, 8])
    blocks = (Block("video", (2, 1, 2), 0, 4), Block("image", (1, 1, 3), 4, 7))
    return TokenLayout(11, visual, torch.tensor([9, 10]), blocks, torch.tensor([0, 0, 0, 0, 1, 1, 1]))


def test_apply_keeps_text_and_lifts_the_map() -> None:
    step = TokenMap(torch.tensor([0, 1, 0, -1, 2, -1, 3]), torch.tensor([2, 1, 4, 6]), torch.tensor([5, 6, 7, 7]))
    left, whole = layout().apply(step)
    text: Tensor = torch.arange(11) * 100
    assert left.length == 8
    assert whole.take(text, 0).tolist() == [0, 300, 200, 500, 600, 800, 900, 1000]
    assert whole.target.tolist() == [0, 1, 2, 1, -1, 3, 4, -1, 5, 6, 7]
    assert left.visual.tolist() == [1, 2, 4, 5]
    assert left.question.tolist() == [6, 7]
    assert [(b.start, b.stop) for b in left.blocks] == [(0, 2), (2, 4)]
    assert left.stratum.tolist() == [5, 6, 7, 7]
    assert layout().apply(TokenMap.identity(7))[1].is_identity


def test_apply_inherits_strata() -> None:
    left, _ = layout().apply(TokenMap.keep(torch.tensor([1, 5]), 7))
    assert left.stratum.tolist() == [0, 1]


@pytest.mark.parametrize(
    "step",
    [
        TokenMap(torch.tensor([0, 1, 2, 3, 3, 4, 5]), torch.tensor([0, 1, 2, 3, 5, 6])),  # merges across
        TokenMap(torch.tensor([1, 2, 3, 4, 0, 5, 6]), torch.tensor([4, 0, 1, 2, 3, 5, 6])),  # moves across
        TokenMap.identity(6),
    ],
)
def test_apply_refuses_to_cross_blocks(step: TokenMap) -> None:
    with pytest.raises(ValueError, match=r"across videos|7 visual tokens"):
        layout().apply(step)


def test_valid_tokens_are_counted_without_gaps() -> None:
    valid = torch.tensor([[False, True, True], [True, True, True], [True, False, True]])
    assert consecutive(valid).tolist() == [[0, 0, 1], [0, 1, 2], [0, 0, 1]]


@pytest.mark.parametrize(("kind", "waits"), [("cuda", False), ("mps", True), ("cpu", True)])
def test_copies_are_waited_for_but_on_cuda(kind: str, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy to the host that is not waited for is read before it is made."""
    asked: list[bool] = []

    def to(self: Tensor, _device: torch.device, non_blocking: bool = False) -> Tensor:
        asked.append(not non_blocking)
        return self

    index = torch.arange(3, device="meta")  # on none of these devices yet
    layout = TokenLayout(3, index[1:2], index[2:], (Block("video", (1, 1, 1), 0, 1),), index[:1])
    monkeypatch.setattr(Tensor, "to", to)
    layout.to(torch.device(kind))
    assert asked == [waits] * 3
