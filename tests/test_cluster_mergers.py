"""HoliTom, CDPruner and SimpleCluster over every family: pruning equals masking, and a batch equals its members."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.method_options.cdpruner import CDPrunerOptions
from prunevid_qwen.config.method_options.holitom import HoliTomMergeOptions
from prunevid_qwen.config.method_options.simplecluster import SimpleClusterOptions
from prunevid_qwen.forward.hooks import pruned
from tests.families import crossed, family_inputs, family_model, member
from tests.test_family_oracles import equals_masking

pytestmark = pytest.mark.usefixtures("scores_apart")

MERGERS: dict[str, Any] = {
    "holitom": HoliTomMergeOptions(cluster_ratio=0.5, tau=0.2, merge_images=True),
    "cdpruner": CDPrunerOptions(cluster_ratio=0.5),
    "simplecluster": SimpleClusterOptions(cluster_ratio=0.5, merge_images=True),
}


def config(name: str) -> PruneVidConfig:
    return PruneVidConfig(merger=MERGERS[name], selector=None)


@pytest.mark.parametrize(("name", "family"), crossed(MERGERS, "simplecluster"))
def test_pruning_equals_masking(name: str, family: str) -> None:
    equals_masking(family, "batch", config(name), family_model(family), 2)


@pytest.mark.parametrize(("name", "family"), crossed(MERGERS, "holitom"))
@torch.no_grad()
def test_a_batch_is_decided_as_its_members(name: str, family: str) -> None:
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
