"""What LLaVA-1.5 has that other families have not: one grid, tokens that are counted, a tower that takes images."""

from __future__ import annotations

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.llava import LINE, TAIL
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.seams import cache_of, transformers_release
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from tests.families import FAMILIES, family_inputs, family_model
from tests.models import CACHE, IMAGE, make_inputs
from tests.test_family_oracles import OUT, config, oracle
from tests.test_host_waits import OnDevice
from tests.tolerances import LOGITS, close

ENCODES_AHEAD = tuple(map(int, transformers_release().split(".")[:2])) >= (5, 18)
WAYS = [
    "pixels",
    *[
        pytest.param(way, marks=pytest.mark.skipif(not ENCODES_AHEAD, reason="this release takes no encoded images"))
        for way in ("asked ahead", "asked outside")
    ],
]


@pytest.mark.parametrize("way", WAYS)
def test_features_may_be_asked_for_once_for_several_prompts(way: str) -> None:
    model, inputs = family_model("llava"), family_inputs("llava", "batch")
    pixels = inputs.pop("pixel_values")
    outside = model.model.get_image_features(pixel_values=pixels, return_dict=True)
    wanted = None
    for _ in range(2):
        with pruned(model, config("llava")) as trace, torch.no_grad():
            made = outside
            if way == "asked ahead":
                made = model.model.get_image_features(pixel_values=pixels, return_dict=True)
            shown = {"pixel_values": pixels} if way == "pixels" else {"mm_encoder_outputs": {"image": made}}
            got = model(**inputs, **shown).logits[:, -1]
            kept = [None if sample.kept is None else sample.kept.rep for sample in trace.samples]
        wanted = got if wanted is None else wanted
        assert torch.equal(got, wanted)
        assert [0 if one is None else len(one) for one in kept] == [3, 9, 0]


def test_a_tower_in_chunks_makes_the_same_choice() -> None:
    model, sizes = family_model("llava"), []
    embedding = next(m for n, m in model.model.vision_tower.named_modules() if n.endswith("patch_embedding"))
    handle = embedding.register_forward_pre_hook(lambda _m, args: sizes.append(len(args[0])))
    try:
        with pruned(model, config("llava")) as trace:
            whole = model.generate(**family_inputs("llava", "batch"), max_new_tokens=3, **OUT)
            kept = [sample.reductions for sample in trace.samples]
        with pruned(model, config("llava", vision_chunk_tokens=40)) as trace:
            cut = model.generate(**family_inputs("llava", "batch"), max_new_tokens=3, **OUT)
    finally:
        handle.remove()
    assert sizes == [4, 2, 2]
    for one, other in zip(kept, trace.samples, strict=True):
        for before, after in zip(one, other.reductions, strict=True):
            assert torch.equal(before.map.target, after.map.target)
    for one, other in zip(whole.logits, cut.logits, strict=True):
        close(one, other, LOGITS)


def test_a_text_goes_on_from_a_pruned_image() -> None:
    """Positions are counted from all that came, whatever the cache holds."""
    model, inputs = family_model("llava"), family_inputs("llava", "one")
    what = config("llava")
    with pruned(model, what) as trace, torch.no_grad():
        first = model.generate(**inputs, max_new_tokens=4, do_sample=False, **OUT)
        samples = trace.samples
        asked = torch.tensor([[20, 30, IMAGE, 40]])  # a placeholder without pixels is text
        ids = torch.cat([first.sequences, asked], 1)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), CACHE: cache_of(first)}
        second = model.generate(**given, max_new_tokens=4, do_sample=False, **OUT)
        trace.samples = samples
    wanted = oracle("llava", "one", second, trace, what.position_scheme, what.enable_cache_compression)
    close(torch.stack(second.logits, 1)[0], wanted[0][-4:], LOGITS)


def test_a_placeholder_of_a_text_is_text_and_one_of_a_prompt_is_not() -> None:
    model = family_model("llava")
    inputs = make_inputs([[("text", 9)]], family="llava")
    with pruned(model, config("llava")), torch.no_grad():
        out = model(**inputs)
        model(input_ids=torch.tensor([[IMAGE, 20]]), **{CACHE: cache_of(out)})
        inputs["input_ids"][0, 3] = IMAGE
        with pytest.raises(UnsupportedError):
            model(**inputs)


@pytest.mark.parametrize("before", ["answered", "refused"])
def test_an_earlier_prompt_is_no_part_of_a_longer_one(before: str) -> None:
    """`generate` tells its prompt once; a plain forward tells none, and may begin as that one did."""
    model, inputs = family_model("llava"), family_inputs("llava", "one")
    end = 5 if before == "answered" else -3  # a text; or a prompt whose pixels are left out
    earlier = {name: inputs[name][:, :end] for name in ("input_ids", "attention_mask")}
    with pruned(model, config("llava", selector="fastv")) as trace, torch.no_grad():  # asks for the last token
        wanted = model(**inputs).logits
        kept = trace.samples[0].kept.rep
        if before == "answered":
            model.generate(**earlier, max_new_tokens=2, do_sample=False)
        else:
            with pytest.raises(UnsupportedError):
                model.generate(**earlier, max_new_tokens=2, do_sample=False)
        assert torch.equal(model(**inputs).logits, wanted)
        assert torch.equal(trace.samples[0].kept.rep, kept)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ([*LINE, 50, 51, 52, *TAIL], (2, 5)), ([13, 50, *TAIL], (1, 2)), ([50, 51, *TAIL], (0, 2)),
        ([*LINE, *TAIL], None), ([50, 51], None), ([*LINE, 50, *TAIL, 60], None),
    ],
)  # fmt: skip
def test_the_users_words_end_before_vicunas_tail(question: list[int], words: tuple[int, int] | None) -> None:
    adapter = adapter_for(family_model("llava"))
    ids = torch.tensor([1, 3148, *[IMAGE] * 16, *question])
    layout = adapter.layout(ids, None, len(ids), [PictureGrid("image", (1, 4, 4))])
    assert layout is not None and layout.words == words
    assert layout.question.tolist() == list(range(18, len(ids)))


def test_nothing_is_asked_about_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the prompt itself, that is; once where a row has several images, of which each step leaves some."""
    monkeypatch.setattr(OnDevice, "asked", [])
    model = family_model("llava")
    door = model.model.language_model.register_forward_pre_hook(
        lambda _m, args, kw: (args, {**kw, "inputs_embeds": kw["inputs_embeds"].as_subclass(OnDevice)}),
        with_kwargs=True,
    )
    what = PruneVidConfig(merger="pool", cluster_ratio=0.5, pruning_layer=2, **FAMILIES["llava"].options)
    try:
        for case, questions in (("one", []), ("batch", ["apply"])):
            OnDevice.asked.clear()
            with torch.no_grad(), pruned(model, what) as trace:
                model(**family_inputs("llava", case))
            assert trace.samples[0].after_stage2 < trace.samples[0].after_stage1 < 16
            assert OnDevice.asked == questions
    finally:
        door.remove()


def test_positions_of_another_form_are_refused() -> None:
    model, inputs = family_model("llava"), family_inputs("llava", "one")
    length = inputs["input_ids"].shape[1]
    with pruned(model, config("llava")), torch.no_grad():
        wanted = model(**inputs).logits
        assert torch.equal(model(**inputs, position_ids=torch.arange(length)[None]).logits, wanted)
        with pytest.raises(UnsupportedError):
            model(**inputs, position_ids=torch.arange(length).expand(3, 1, -1))
        packed = torch.cat([torch.arange(4), torch.arange(length - 4)])[None]
        with pytest.raises(UnsupportedError):
            model(**{**inputs, "attention_mask": None}, position_ids=packed)
