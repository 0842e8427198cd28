"""VScan's second step: half way down the decoder, by the last token, with rotary embedding or without."""

from __future__ import annotations

import pytest
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.method_options import VScanOptions
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.needs import AttentionQuery, Evidence, Needs
from prunevid_qwen.stage2_select import VScan
from tests.models import ONE_VIDEO, make_inputs, tiny_model
from tests.pruned_generation import same_logits, text_follow_up
from tests.schedule_layouts import places_of, several_images
from tests.step_plans import oracle


def test_it_keeps_what_the_last_token_attends_to() -> None:
    layout, hidden = several_images((40, 8, 1))
    score = torch.rand(49, generator=torch.Generator().manual_seed(0))
    step = VScan().plan(Evidence(layout, hidden, hidden[:0], score.log()))
    wanted = [score[:40].argsort(descending=True)[:13], score[40:48].argsort(descending=True)[:2] + 40]
    assert torch.equal(step.rep, torch.cat([*wanted, torch.tensor([48])]).sort().values)
    with pytest.raises(ValueError, match="needs"):
        VScan().plan(Evidence(layout, hidden, hidden[:0]))


@pytest.mark.parametrize(("depth", "layer"), [(28, 14), (36, 18), (32, 16), (6, 3), (3, 2), (2, 1)])
def test_it_cuts_half_way_down(depth: int, layer: int) -> None:
    assert places_of(VScanOptions(), depth) == (layer - 1,)
    assert places_of(VScanOptions(layers=1), depth) == (0,)


def test_a_decoder_of_one_layer_has_no_half() -> None:
    with pytest.raises(ConfigError):
        compile_plan(PruneVidConfig(merger=None, selector="vscan"), 1)


def test_it_asks_for_the_next_layers_attention_of_the_last_token() -> None:
    asked = {"heads": "mean", "rows": "last", "projections": "next"}
    assert VScan().needs == Needs(AttentionQuery("pre_rope", **asked))
    assert VScan(attention_source="post_rope").needs == Needs(AttentionQuery("post_rope", **asked))
    assert VScan(keep_ratio=1.0).needs == Needs()


def test_a_text_follow_up_goes_on() -> None:
    config = PruneVidConfig(merger=None, selector="vscan")
    second, trace = text_follow_up(tiny_model(), make_inputs(ONE_VIDEO), config)
    assert trace.samples[0].after_stage2 == int(80 * 0.333)
    (wanted,) = oracle(ONE_VIDEO, second.sequences, trace, compile_plan(config, 6))
    same_logits(torch.stack(second.logits, 1)[0], wanted[-4:])
