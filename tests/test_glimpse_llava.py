"""GlimpsePrune on LLaVA-1.5: its probe is a log-softmax over the whole row, its taps are CLIP's, its images squares."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.probe import row_sums
from prunevid_qwen.stage2_select.glimpse import VIP, Glimpse, GlimpseVIP, VIPShape
from prunevid_qwen.stage2_select.glimpse.facts import GlimpseFacts
from prunevid_qwen.training.glimpse.published_form import write_published
from prunevid_qwen.training.glimpse.trainee import Trainee
from tests import glimpse
from tests.families import FAMILIES, family_inputs, family_model, member
from tests.masking import text_inputs
from tests.test_family_oracles import equals_masking, generate, identical
from tests.tolerances import LOGITS, close, tokens_apart

BOTH = pytest.mark.parametrize("attention", ["sdpa", "eager"])
CASES = pytest.mark.parametrize("case", [pytest.param("one", marks=pytest.mark.nightly), "batch"])


def config(facts: GlimpseFacts = glimpse.LLAVA, **options: Any) -> PruneVidConfig:
    return glimpse.config(facts, **{**FAMILIES["llava"].options, **options})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The evidence that the selector is shown, row by row."""
    seen: list[Any] = []
    stock = Glimpse.plan
    monkeypatch.setattr(Glimpse, "plan", lambda self, evidence: seen.append(evidence) or stock(self, evidence))
    return seen


# ---- evidence


@BOTH
@CASES
@pytest.mark.parametrize("logits", [False, True])
def test_the_probe_sees_what_a_token_in_the_sequence_would(
    attention: str, case: str, logits: bool, shown: list[Any]
) -> None:
    model, inputs = family_model("llava", attention), family_inputs("llava", case)
    facts = replace(glimpse.LLAVA, use_attention_logits=logits, selected_layers=(0, 2), reduce_layer=3)
    with pruned(model, config(facts)):
        generate(model, family_inputs("llava", case), 1)
    embeds, _ = text_inputs(family_model("llava", "eager"), family_inputs("llava", case))
    predictor, rows = glimpse.random_predictor(facts), iter(shown)
    for b in range(len(embeds)):
        at = inputs["attention_mask"][b].nonzero()[:, 0]
        visual = adapter_for(model).types(inputs["input_ids"][b, at]).nonzero()[:, 0].tolist()
        if not visual:
            continue
        places = torch.arange(len(at))[None]
        wanted = glimpse.inside_the_sequence(predictor, embeds[b : b + 1, at], places, visual, "llava")
        got = next(rows).probe[:, :, 0]
        close(got, wanted, LOGITS)
        assert logits or bool((got.exp().sum(-1) < 1).all()), "text and the glimpse token itself are in the row"
    assert next(rows, None) is None


def test_probes_of_several_tokens_see_those_before_them() -> None:
    """Of two tokens behind a prompt: what each one's row sums over."""
    numbers = torch.Generator().manual_seed(0)
    q, before, own = (torch.randn(shape, generator=numbers) for shape in ((4, 2, 8), (2, 5, 8), (2, 2, 8)))
    got = row_sums(q, before, own, 0.3)
    for head in range(4):
        for token in range(2):
            keys = torch.cat([before[head // 2], own[head // 2, : token + 1]])
            close(got[head, token, 0], (keys @ q[head, token] * 0.3).logsumexp(0))


def test_taps_are_blocks_of_clip_without_its_class_token(shown: list[Any]) -> None:
    model, inputs = family_model("llava"), family_inputs("llava", "batch")
    with torch.no_grad():
        states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    with pruned(model, config()):
        generate(model, inputs, 1)
    for own, seen in zip(([0], [1, 2, 3]), shown, strict=True):
        # state number 0 is the embeddings: that of block i is number i + 1, as the authors count
        wanted = torch.stack([states[block + 1][own][:, 1:].flatten(0, 1) for block in (1, 0)])
        close(seen.vision["states"], wanted)


# ---- the oracles


@BOTH
@pytest.mark.parametrize("mode", ["greedy", "beam", "sample"])
def test_nothing_dropped_is_the_stock_model_bit_for_bit(attention: str, mode: str) -> None:
    what = config(keep_threshold=0.0, position_scheme="hf")
    identical("llava", "batch", mode, what, family_model("llava", attention))


def test_the_probe_leaves_no_trace() -> None:
    model = family_model("llava")
    stock = generate(model, family_inputs("llava", "one"))
    with pruned(model, config(keep_threshold=0.0)) as trace:
        generate(model, family_inputs("llava", "one"))
    assert set(trace.cache_lengths) == {cache_of(stock).get_seq_length() - 4}


@BOTH
@CASES
@pytest.mark.parametrize("options", [{}, {"enable_cache_compression": False}, {"enable_stage1": True}])
def test_pruning_is_masking(attention: str, case: str, options: dict[str, Any]) -> None:
    first = {"merger": "pool", "cluster_ratio": 0.5} if options.get("enable_stage1") else {}
    equals_masking("llava", case, config(**options, **first), family_model("llava", attention), 20)


@pytest.mark.usefixtures("scores_apart")
def test_a_batch_is_its_members() -> None:
    model = family_model("llava")
    with pruned(model, config()) as trace:
        together = generate(model, family_inputs("llava", "batch"), 6)
        kept = [sample.kept for sample in trace.samples]
        for b, whole in enumerate(kept):
            alone = generate(model, member("llava", "batch", b), 6)
            mine = trace.samples[0].kept
            assert (mine is None) == (whole is None)
            assert mine is None or torch.equal(mine.rep, whole.rep)
            tokens_apart(alone.logits)
            assert torch.equal(alone.sequences[0, -6:], together.sequences[b, -6:])
            close(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0], LOGITS)


def test_text_and_padding_of_others_are_no_part_of_a_row(shown: list[Any]) -> None:
    """A batch shows the same logarithms of probabilities as each of its prompts alone."""
    model = family_model("llava")
    with pruned(model, config()):
        generate(model, family_inputs("llava", "batch"), 1)
        together = [each.probe for each in shown]
        for b, whole in enumerate(together):
            shown.clear()
            generate(model, member("llava", "batch", b), 1)
            close(shown[0].probe, whole, LOGITS)
    assert len(together) == 2


# ---- the published form


def exported(folder: Path, clip_width: int = 32, **changes: Any) -> tuple[Path, Trainee]:
    """The published form of a predictor for a LLaVA, and what it was made of."""
    facts = replace(glimpse.LLAVA, vision_width=clip_width)
    torch.manual_seed(0)
    made = Trainee(facts, 0.1, eps=1e-3)  # so large that another one would show
    with torch.no_grad():
        made.learnable_embeddings.mul_(20)
        made.le_norm.weight.uniform_(0.5, 1.5)
    write_published(made, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder, made


def test_what_the_exporter_writes_is_what_is_described(tmp_path: Path) -> None:
    """The facts of the published LLaVA checkpoints: keys, shapes, a flat config, states counted from the embeddings."""
    folder, made = exported(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llava_llama_gp" and not config["use_attention_logits"]
    assert config["mm_hidden_size"] == 32 and config["image_aspect_ratio"] == "pad"
    assert config["selected_visual_layers"] == [2, 1] and made.facts.selected_visual_layers == (1, 0)
    assert not config.keys() & {"vision_config", "attn_fuse_global", "le_norm_type"}
    held = torch.load(folder / "new_modules_gp.pt", weights_only=True)
    assert list(held) == ["attn_fuser", "learnable_embeddings", "le_proj", "le_norm"]
    assert held["learnable_embeddings"].shape == (6, 1, 64)
    assert {name: list(x.shape) for name, x in held["le_proj"].items()} == {"weight": [64, 64], "bias": [64]}
    assert list(held["le_norm"]) == ["weight"]
    assert held["attn_fuser"]["attn_in_proj.weight"].shape == (16, 4)
    assert held["attn_fuser"]["cond_in_projs.1.weight"].shape == (32, 32)
    wanted = GlimpseVIP.from_pretrained(Path(__file__).parent / "data" / "glimpse_checkpoint").vip.state_dict()
    last = {f"attn_out_projs.1.{each}" for each in ("weight", "bias")}  # of two taps here, of four there
    assert set(held["attn_fuser"]) - last < set(wanted) and last < set(held["attn_fuser"])


def test_what_the_exporter_writes_loads_as_it_was(tmp_path: Path) -> None:
    folder, made = exported(tmp_path / "published")
    read, wanted = GlimpseVIP.from_pretrained(folder), made.to_predictor()
    assert read.facts == made.facts
    close(read.glimpse_vectors, wanted.glimpse_vectors)
    assert all(torch.equal(x, read.vip.state_dict()[name]) for name, x in wanted.vip.state_dict().items())
    again = GlimpseVIP.from_pretrained(read.save_pretrained(tmp_path / "ours"))
    assert again.facts == read.facts and torch.equal(again.glimpse_vectors, read.glimpse_vectors)
    with pruned(family_model("llava"), config(glimpse_path=str(folder))) as trace:
        generate(family_model("llava"), family_inputs("llava", "one"), 1)
    assert trace.layer == made.facts.reduce_layer


def test_the_form_of_qwen_is_written_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = Trainee(glimpse.FACTS)
    read = GlimpseVIP.from_pretrained(write_published(made, tmp_path, torch.bfloat16))
    assert read.facts == made.facts
    assert torch.equal(read.vip.attn_in_proj.weight, made.vip.attn_in_proj.weight.bfloat16().float())
    with pytest.raises(UnsupportedError):
        write_published(Trainee(replace(glimpse.FACTS, use_attention_logits=False)), tmp_path)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"image_aspect_ratio": "anyres"}, UnsupportedError),
        ({"deep_supervision": True}, UnsupportedError),
        ({"mm_hidden_size": None}, ConfigError),
        ({"selected_visual_layers": [0, 1]}, ConfigError),  # the embeddings are no block
        ({"selected_visual_layers": ["2", 1]}, ConfigError),
        ({"use_attention_logits": 1}, ConfigError),
        ({"mm_hidden_size": 48}, ConfigError),
    ],
)
def test_configs_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        GlimpseVIP.from_pretrained(exported(tmp_path, **changes)[0])


def test_what_a_config_may_leave_out(tmp_path: Path) -> None:
    folder, _ = exported(tmp_path)
    whole = json.loads((folder / "config.json").read_text())
    for name in ("use_attention_logits", "image_aspect_ratio", "attn_fuse_type", "le_length"):
        (folder / "config.json").write_text(json.dumps({key: x for key, x in whole.items() if key != name}))
        facts = GlimpseVIP.from_pretrained(folder).facts
        assert not facts.use_attention_logits
        assert facts.pad_to_square == (name != "image_aspect_ratio")


def test_a_folder_of_an_earlier_release_says_nothing_of_it(tmp_path: Path) -> None:
    folder = glimpse.random_predictor().save_pretrained(tmp_path)
    assert not json.loads((folder / "config.json").read_text()).keys() & {"use_attention_logits", "pad_to_square"}
    assert GlimpseVIP.from_pretrained(folder).facts == glimpse.FACTS


@pytest.mark.parametrize(("layers", "width", "published"), [(32, 4096, 25_847_297), (40, 5120, 35_362_305)])
def test_the_sizes_of_the_published_checkpoints(layers: int, width: int, published: int) -> None:
    """Table 14 of the paper: parameters of the new modules, with the projection and embeddings that we drop."""
    vip = sum(each.numel() for each in VIP(VIPShape(layers, 1024)).parameters())
    assert vip + layers * width + width * width + 2 * width == published


def test_a_predictor_of_another_model_is_refused() -> None:
    for facts in (replace(glimpse.LLAVA, heads=8), replace(glimpse.LLAVA, vision_width=48)):
        with pytest.raises(ConfigError), pruned(family_model("llava"), config(facts)):
            pass
