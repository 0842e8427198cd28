"""DivPrune's reference cases: the tokens of an image, [n, d], and the order in which they are picked."""

from __future__ import annotations

import torch

from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage1_merge import DivPrune
from prunevid_qwen.stage1_merge.divprune import max_min_order
from tests.method_reference import Case, layout_of


def check(case: Case) -> None:
    tokens, count = case["in.tokens"], case.params["keep_count"]
    assert torch.equal(max_min_order(tokens, count), case["out.order"])
    chosen = DivPrune(keep_tokens=count).plan(Evidence(layout_of(0, len(tokens), 1), tokens, tokens[:0]))
    assert chosen.is_selection and torch.equal(chosen.rep, case["out.keep"])
