"""HoliTom's inner merge: one token after another into the kept one that it resembles most."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.kernels import cosines
from prunevid_qwen.needs import Evidence
from prunevid_qwen.reducer import merges
from prunevid_qwen.stage2_select import HoliTom
from prunevid_qwen.stage2_select.holitom import merged_in_turn
from prunevid_qwen.tokens import Block, TokenLayout
from tests.schedule_layouts import places_of, several_images
from tests.tolerances import close


def one_after_another(score: Tensor, features: Tensor, count: int) -> Tensor:
    """The law: a loop over the dropped tokens, in order."""
    kept = sorted(sorted(range(len(score)), key=lambda i: -float(score[i]))[:count])
    merged = {i: features[i].double() for i in kept}
    for i in range(len(score)):
        if i not in kept:
            alike = [float(torch.cosine_similarity(features[i].double(), features[j].double(), dim=0)) for j in kept]
            best = kept[alike.index(max(alike))]
            merged[best] = (merged[best] + features[i].double()) / 2
    return torch.stack([merged[i] for i in kept]).float()


@pytest.mark.parametrize(("n", "count"), [(40, 20), (41, 7), (30, 1), (30, 29), (300, 2)])
def test_it_is_the_mean_of_two_again_and_again(n: int, count: int) -> None:
    numbers = torch.Generator().manual_seed(n)
    score, features = torch.rand(n, generator=numbers), torch.randn(n, 5, generator=numbers)
    done = merged_in_turn(score, features, count)
    assert torch.equal(done.rep, score.argsort(descending=True)[:count].sort().values)
    assert bool((done.target >= 0).all()) and torch.equal(done.target[done.rep], torch.arange(count))
    close(done.mean(features), one_after_another(score, features, count))
    assert done.mix is not None
    weights = torch.zeros(count, dtype=torch.float64).scatter_add_(0, done.mix.group, done.mix.weight.double())
    close(weights, torch.ones(count, dtype=torch.float64))


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.Generator().manual_seed(0)
    score, features = torch.rand(90, generator=numbers), torch.randn(90, 6, generator=numbers)
    whole = merged_in_turn(score, features, 30)
    monkeypatch.setattr(cosines, "PIECE_BYTES", 1)
    parts = merged_in_turn(score, features, 30)
    assert torch.equal(whole.target, parts.target)


def test_equal_tokens_go_to_the_first_and_zeros_do_no_harm() -> None:
    done = merged_in_turn(torch.zeros(6), torch.ones(6, 3), 2)
    assert done.rep.tolist() == [0, 1] and done.target.tolist() == [0, 1, 0, 0, 0, 0]
    assert bool(merged_in_turn(torch.zeros(6), torch.zeros(6, 3), 2).mean(torch.zeros(6, 3)).isfinite().all())
    assert merged_in_turn(torch.zeros(4), torch.ones(4, 3), 4).is_identity


def test_each_image_is_merged_by_itself_and_across_text() -> None:
    layout, hidden = several_images((40, 7))
    score = torch.rand(47, generator=torch.Generator().manual_seed(2))
    done = HoliTom().plan(Evidence(layout, hidden, hidden[:0], score.log()))
    left = layout.apply(done)[0]
    assert [block.stop - block.start for block in left.blocks] == [20, 3]
    assert int(done.target[:40].max()) == 19 and int(done.target[40:].min()) == 20
    visual = torch.cat([torch.arange(2, 22), torch.arange(25, 45)])  # a video with a timestamp between two frames
    split = TokenLayout(50, visual, torch.arange(45, 50), (Block("video", (2, 4, 5), 0, 40),), visual * 0, split=True)
    done = HoliTom(keep_tokens=9).plan(Evidence(split, hidden[:40], hidden[:0], score[:40].log()))
    left = split.apply(done)[0]
    assert left.visual.numel() == 9 and left.length == 19


def test_caches_stay_whole_where_it_merges() -> None:
    config = PruneVidConfig(merger=None, selector="holitom")
    assert config.compress_cache is False and merges(HoliTom())
    assert PruneVidConfig(selector="holitom", keep_ratio=1.0).compress_cache and not merges(HoliTom(keep_ratio=1.0))
    assert places_of(config.selector, 28) == (17,) and places_of(config.selector, 6) == (3,)
    with pytest.raises(ValueError, match="needs"):
        layout, hidden = several_images((8,))
        HoliTom().plan(Evidence(layout, hidden, hidden[:0]))
