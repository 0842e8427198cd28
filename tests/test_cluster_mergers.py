"""HoliTom, CDPruner and SimpleCluster over every family: recomputing gives the same, and no memory grows with N * N."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.method_options import CDPrunerOptions, HoliTomMergeOptions, SimpleClusterOptions
from prunevid_qwen.contract.samples import only_what_it_asks_for
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.reducer import made_by
from tests.door_samples import shown
from tests.families import FAMILIES, crossed, family_inputs, family_model, member
from tests.recomputing import recomputed
from tests.test_door_methods import largest
from tests.test_family_oracles import generate
from tests.tolerances import LOGITS, close

MERGERS: dict[str, Any] = {
    "holitom": HoliTomMergeOptions(cluster_ratio=0.5, tau=0.2, merge_images=True),
    "cdpruner": CDPrunerOptions(cluster_ratio=0.5),
    "simplecluster": SimpleClusterOptions(cluster_ratio=0.5, merge_images=True),
}


def config(name: str) -> PruneVidConfig:
    return PruneVidConfig(merger=MERGERS[name], selector=None)


@pytest.mark.parametrize(("name", "family"), crossed(MERGERS, "simplecluster"))
def test_recomputing_gives_the_same(name: str, family: str) -> None:
    """A batch with several videos and images, and a text."""
    model = family_model(family)
    with pruned(model, config(name)) as trace:
        out = generate(model, family_inputs(family, "batch"), 2)
    assert all(sample.after_stage1 < sample.tokens for sample in trace.samples if sample.tokens)
    for b, logits in enumerate(recomputed(FAMILIES[family].cases["batch"], out.sequences, trace, family)):
        close(torch.stack(out.logits, 1)[b], logits, LOGITS, msg=lambda m, b=b: f"sample {b}: {m}")


@pytest.mark.parametrize(("name", "family"), crossed(MERGERS, "holitom"))
@torch.no_grad()
def test_a_row_is_decided_as_it_is_alone(name: str, family: str) -> None:
    model = family_model(family)
    with pruned(model, config(name)) as trace:
        model(**family_inputs(family, "batch"))
        together = [sample.merged for sample in trace.samples if sample.tokens]
        assert len(together) == 2
        for b, merged in enumerate(together):
            model(**member(family, "batch", b))
            alone = trace.samples[0].merged
            assert merged is not None and alone is not None
            assert torch.equal(merged.target, alone.target) and torch.equal(merged.rep, alone.rep)


@pytest.mark.parametrize("own", [
    HoliTomMergeOptions(cluster_ratio=0.5, tau=0.2, clustered_share=0.5), CDPrunerOptions(cluster_ratio=0.2),
    SimpleClusterOptions(cluster_ratio=0.2), SimpleClusterOptions(cluster_ratio=0.2, start="farthest"),
])  # fmt: skip
def test_nothing_is_as_large_as_tokens_times_tokens(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunevid_qwen.kernels.k_means._BLOCK_BYTES", 2**14)
    reducer, size = made_by(own, 1), 1200
    seen = shown((60, 4, 5), torch.randn(size, 8, generator=torch.Generator().manual_seed(0)))
    seen = dataclasses.replace(seen, question=seen.hidden[:3])
    with largest() as mode:
        left = reducer.plan(only_what_it_asks_for(reducer, seen)).n_out
    assert 200 <= left <= 700
    assert mode.numbers <= 24 * size, "a few numbers for each token"
