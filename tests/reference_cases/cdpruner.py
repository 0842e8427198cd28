"""CDPruner's reference cases: one image, with CLIP's own embeddings of patches and of segments of the text.

``in.features`` [n, d] are the tokens as the decoder gets them, ``in.image_embeds`` [n, c] and ``in.text_embeds`` [M, c]
CLIP's. ``out.order`` [keep] are the choices one after the other.
"""

from __future__ import annotations

import torch

from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage1_merge import CDPruner
from prunevid_qwen.stage1_merge.cdpruner import conditional_dpp, likeness, rescaled
from tests.method_reference import Case, layout_of
from tests.tolerances import FEATURES, close


def check(case: Case) -> None:
    n, keep = case.params["n"], case.params["keep"]
    cosine, tokens = likeness(case["in.image_embeds"], case["in.text_embeds"]), case["in.features"]
    relevance = rescaled(-cosine)  # the published sign
    close(relevance, case["out.relevance"], FEATURES)
    assert torch.equal(conditional_dpp(tokens, relevance, keep, n), case["out.order"])
    method = CDPruner(keep_tokens=keep, relevance="marks")
    assert method.needs.marks
    layout = layout_of(3, n, 5)
    for marks in (0.5 - cosine / 2, relevance / relevance.max()):  # however the caller scales it into [0, 1]
        kept = method.plan(Evidence(layout, tokens, tokens[:0], marks=marks))
        assert kept.is_selection and torch.equal(kept.rep, case["out.keep"])
