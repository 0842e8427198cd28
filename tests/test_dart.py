"""DART: pivots of large keys, and what resembles them least."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.method_options import DARTOptions
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage2_select import DART, dart
from prunevid_qwen.stage2_select.dart import least_duplicated
from tests.schedule_layouts import places_of, several_images


def one_pivot_after_another(features: Tensor, norms: Tensor, pivots: int, others: Tensor, count: int) -> list[int]:
    """The law: sets and loops."""
    n = len(norms)
    chosen = sorted(range(n), key=lambda i: -float(norms[i]))[: min(pivots, count)]
    shown = [features[i].double() for i in chosen] + [other.double() for other in others]
    left = count - len(chosen)
    for number, pivot in enumerate(shown):
        take = left // len(shown) + (number < left % len(shown))
        rest = [i for i in range(n) if i not in chosen]
        rest.sort(key=lambda i: float(torch.cosine_similarity(pivot, features[i].double(), dim=0)))
        chosen = chosen + rest[:take]
    return chosen


@pytest.mark.parametrize(("pivots", "text"), [(4, 4), (1, 0), (3, 1), (9, 2)])
@pytest.mark.parametrize("count", [1, 4, 8, 13, 39, 40])
def test_it_is_the_law(pivots: int, text: int, count: int) -> None:
    numbers = torch.Generator().manual_seed(pivots)
    features, norms = torch.randn(40, 6, generator=numbers), torch.rand(40, generator=numbers)
    others = torch.randn(text, 6, generator=numbers)
    got = least_duplicated(features, norms, pivots, others, count)
    assert got.tolist() == one_pivot_after_another(features, norms, pivots, others, count)
    assert len(set(got.tolist())) == count


def test_duplicates_are_chosen_once_and_in_order() -> None:
    got = least_duplicated(torch.ones(12, 3), torch.ones(12), 2, torch.ones(1, 3), 9)
    assert got.tolist() == list(range(9))
    got = least_duplicated(torch.zeros(12, 3), torch.zeros(12), 2, torch.zeros(0, 3), 12)
    assert sorted(got.tolist()) == list(range(12))


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.Generator().manual_seed(0)
    given = torch.randn(50, 6, generator=numbers), torch.rand(50, generator=numbers), 4, torch.ones(1, 6), 20
    whole = least_duplicated(*given)
    monkeypatch.setattr(dart, "PIECE_BYTES", 1)
    assert torch.equal(least_duplicated(*given), whole)


def seen_of(sizes: tuple[int, ...]) -> Evidence:
    layout, hidden = several_images(sizes)
    numbers = torch.Generator().manual_seed(1)
    keys = torch.randn(2, sum(sizes), 4, generator=numbers)
    text = torch.randn(5, 8, generator=numbers)
    return Evidence(layout, hidden, text, keys=keys, question_keys=torch.randn(2, 5, 4, generator=numbers))


def test_each_image_has_pivots_and_a_budget_of_its_own() -> None:
    seen = seen_of((60, 20, 3))
    assert seen.keys is not None and seen.question_keys is not None
    kept = DART().plan(seen).rep.tolist()
    norms = seen.keys.abs().sum((0, 2))
    text = sorted(range(5), key=lambda i: -float(seen.question_keys[:, i].abs().sum()))[:4]
    wanted = []
    for start, stop, count in ((0, 60, 13), (60, 80, 4), (80, 83, 1)):
        own = slice(start, stop)
        chosen = one_pivot_after_another(seen.hidden[own], norms[own], 4, seen.question[text], count)
        wanted += [start + i for i in sorted(chosen)]
    assert kept == wanted


def test_the_texts_pivots_have_a_say_and_may_be_left_out() -> None:
    seen = seen_of((60,))
    alone = DART(pivot_text_tokens=0)
    assert alone.needs.question == "" and DART().needs.question == "all"
    bare = replace(seen, question=seen.question[:0], question_keys=None)
    assert not torch.equal(alone.plan(bare).rep, DART().plan(seen).rep)
    short = replace(seen, question=seen.question[:2], question_keys=seen.question_keys[:, :2])  # type: ignore[index]
    assert DART().plan(short).n_out == 13
    for missing in (replace(seen, keys=None), bare):
        with pytest.raises(ValueError, match="needs"):
            DART().plan(missing)


def test_options() -> None:
    assert places_of(DARTOptions(), 28) == (1,)
    config = PruneVidConfig(selector="dart", **{"selector.pivot_tokens": 2, "keep_ratio": 0.1})
    assert config == PruneVidConfig.from_json(config.to_json()) and config.selector == DARTOptions(0.1, 2)


@pytest.mark.parametrize("options", [
    {"pivot_tokens": 0}, {"pivot_text_tokens": -1}, {"pivot_tokens": 1.5}, {"keep_ratio": 0}, {"layers": (1, 2)},
    {"keep_ratio": 0.5, "keep_tokens": 3},
], ids=str)  # fmt: skip
def test_contradictions_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DARTOptions(**options)
