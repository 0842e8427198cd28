"""The VIP against a slow form of its own, and what it must not depend on."""

from __future__ import annotations

import math

import pytest
import torch

from prunevid_qwen.stage2_select.glimpse import VIP, GlimpseVIP, VIPShape
from prunevid_qwen.stage2_select.glimpse.glimpse import frames_of
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap
from tests.glimpse import FACTS, random_predictor
from tests.tolerances import FEATURES, close

SHAPE = VIPShape(attention=6, vision=10, taps=3, width=24, condition=40, heads=4)
GRIDS = [(3, 5), (1, 1), (3, 5), (2, 7)]


def vip(seed: int = 0) -> VIP:
    torch.manual_seed(seed)
    made = VIP(SHAPE).double()
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn_like(weight) * (1.0 if weight.ndim == 1 else 1.5 / weight.shape[1] ** 0.5))
    return made.eval()


def inputs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(3)
    attention = torch.randn(count, SHAPE.attention, generator=numbers, dtype=torch.float64)
    return attention, torch.randn(SHAPE.taps, count, SHAPE.vision, generator=numbers, dtype=torch.float64)


def places(grids: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    cells = [(r, c) for h, w in grids for r in range(h) for c in range(w)]
    rows, columns = torch.tensor(cells).unbind(1)
    return rows, columns, [h * w for h, w in grids]


@torch.no_grad()
def slowly(made: VIP, attention: torch.Tensor, taps: torch.Tensor, grids: list[tuple[int, int]]) -> torch.Tensor:
    """One dense attention over all tokens with a mask between images, token by token rotary angles, no fused call."""
    rows, columns, sizes = places(grids)
    image = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    allowed = image[:, None] == image[None]
    weights = dict(made.state_dict())

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        out = x @ weights[f"{name}.weight"].T
        return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]

    def turn(x: torch.Tensor) -> torch.Tensor:  # [N, d]
        half, out = x.shape[1] // 2, x.clone()
        for n in range(x.shape[0]):
            for j in range(half):
                place = rows[n] if j < half // 2 else columns[n]
                angle = float(place) * 10000.0 ** (-2 * (j % (half // 2)) / half)
                a, b = float(x[n, j]), float(x[n, j + half])
                out[n, j] = a * math.cos(angle) - b * math.sin(angle)
                out[n, j + half] = b * math.cos(angle) + a * math.sin(angle)
        return out

    x = linear(attention, "attn_in_proj")
    for i in range(SHAPE.taps):
        h, condition = norm(x, f"layers.{i}.norm1"), linear(taps[i], f"cond_in_projs.{i}")
        both = torch.cat([h, condition], 1)
        q, k, v = (linear(both if n != "v" else h, f"layers.{i}.attn.{n}_proj") for n in "qkv")
        heads = []
        for a, b, c in zip(q.chunk(4, 1), k.chunk(4, 1), v.chunk(4, 1), strict=True):
            scores = turn(a) @ turn(b).T / a.shape[1] ** 0.5
            heads.append(scores.masked_fill(~allowed, -math.inf).softmax(-1) @ c)
        x = x + linear(torch.cat(heads, 1), f"layers.{i}.attn.o_proj")
        h = norm(x, f"layers.{i}.norm2")
        gate = linear(h, f"layers.{i}.mlp.gate_proj")
        x = x + linear(gate / (1 + (-gate).exp()) * linear(h, f"layers.{i}.mlp.up_proj"), f"layers.{i}.mlp.down_proj")
    return linear(x, f"attn_out_projs.{SHAPE.taps - 1}")[:, 0]


def test_the_slow_form_agrees() -> None:
    made, (rows, columns, sizes) = vip(), places(GRIDS)
    attention, taps = inputs(sum(sizes))
    fast, slow = made(attention, taps, rows, columns, sizes), slowly(made, attention, taps, GRIDS)
    close(fast, slow, FEATURES, dtype=torch.float32)  # angles are made in fp32, as the authors make them


def test_images_do_not_see_each_other() -> None:
    made, (rows, columns, sizes) = vip(), places(GRIDS)
    attention, taps = inputs(sum(sizes))
    together, at = made(attention, taps, rows, columns, sizes), 0
    for size in sizes:
        own = slice(at, at + size)
        alone = made(attention[own], taps[:, own], rows[own], columns[own], [size])
        close(together[own], alone)
        at += size


def test_a_video_is_an_image_for_each_temporal_position() -> None:
    predictor = random_predictor()
    layout = TokenLayout(
        30,
        torch.arange(24),
        torch.arange(24, 30),
        (Block("video", (4, 2, 3), 0, 24),),
        torch.zeros(24, dtype=torch.long),
    )
    image, rows, columns, sizes = frames_of(layout)
    numbers = torch.Generator().manual_seed(0)
    attention, taps = torch.randn(24, 4, generator=numbers), torch.randn(1, 24, 32, generator=numbers)
    assert image is None
    assert sizes == [6] * 4
    assert torch.equal(
        predictor.vip(attention, taps, rows, columns, sizes), predictor(attention, taps, torch.tensor([[2, 3]] * 4))
    )


def test_merged_tokens_stand_where_their_group_does_in_whatever_order() -> None:
    blocks = (Block("image", (1, 2, 3), 0, 6), Block("video", (2, 2, 2), 6, 14))
    layout = TokenLayout(20, torch.arange(14), torch.arange(14, 20), blocks, torch.tensor([0] * 6 + [1] * 8))
    target = torch.tensor([0, 0, 1, -1, -1, 1, 3, 2, 3, -1, 2, 2, 3, 4])
    left, _ = layout.apply(TokenMap(target, torch.tensor([4, 2, 11, 6, 13])))
    assert left.cell_of.tolist() == [4, 2, 5, 0, 7]
    image, rows, columns, sizes = frames_of(left)
    assert image is not None
    assert image.tolist() == [0, 0, 2, 1, 2]
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(1, 1), (0, 2), (0, 1), (0, 0), (1, 1)]
    assert sizes == [2, 1, 2]
    assert left.to(torch.device("meta")).cells is not None


def test_the_four_full_sizes_of_the_published_checkpoints() -> None:
    """Table 14 of the paper: parameters of the new modules, with the projection and embeddings that we drop."""
    for layers, width, heads, vision, published in (
        (36, 2048, 16, 1280, 13_723_137),
        (28, 3584, 28, 1280, 22_406_657),
    ):
        own = sum(p.numel() for p in VIP(VIPShape(heads, vision)).parameters())
        assert own + layers * width + width * width + 2 * width == published


@pytest.mark.parametrize("change", [{"width": 10}, {"condition": 41}, {"taps": 0}])
def test_sizes_that_cannot_be(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|neither may leave a rest"):
        VIPShape(**{**vars(SHAPE), **change})


def test_a_copy_for_another_device_is_made_once_and_leaves_the_first_alone() -> None:
    predictor = random_predictor()
    device = torch.device("meta")
    copy = predictor.at(device)
    assert copy is predictor.at(device)
    assert predictor.glimpse_vectors.device.type == "cpu"
    assert predictor.at(torch.device("cpu")) is predictor
    assert isinstance(copy, GlimpseVIP)
    assert copy.facts == FACTS
