"""PrunedVLM on a family that the library's processor reads for: LLaVA-1.5, of random weights, loaded from a folder."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.generation.streamers import BaseStreamer

import prunevid_qwen
from prunevid_qwen import (
    ConfigError,
    PrunedVLM,
    PruneVidConfig,
    PruneVidQwen25VL,
    SetupError,
    UnsupportedError,
    get_baseline_config,
    get_config,
    get_fastv_config,
    pruned,
)
from prunevid_qwen.adapters import families, family_of, family_table
from prunevid_qwen.cli.app import main
from prunevid_qwen.config import PRESETS
from prunevid_qwen.errors import UnknownOption
from prunevid_qwen.inputs.frontends import FRONTENDS, StockFrontend, frontend_for
from prunevid_qwen.training.glimpse.base import load_base
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from prunevid_qwen.training.glimpse_plus.recipe import GlimpsePlusRecipe
from prunevid_qwen.training.glimpse_plus.rewards import exact_match
from prunevid_qwen.training.glimpse_plus.train import train_plus
from tests.llava import HUB_TEMPLATE, TOKENS, save_llava, tiny_processor, tiny_tokenizer
from tests.masking import masked_logits, text_inputs
from tests.tolerances import LOGITS, close, tokens_apart

ASKED = "what color is the circle ?"
OTHER = "is the circle blue ?"
PROMPT = f"USER: <image>\n{ASKED} ASSISTANT:"
FASTV = get_fastv_config().replace(compress_cache=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def stock(folder: Path) -> tuple[Any, Any]:
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def whole(folder: Path) -> PrunedVLM:
    return PrunedVLM(str(folder), get_baseline_config(), device="cpu")


@pytest.fixture(scope="module")
def pruning(whole: PrunedVLM) -> PrunedVLM:
    return whole.with_config(FASTV)


def picture(seed: int, width: int = 70, height: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p") / "photo.png"
    picture(1).save(path)
    return path


def ask(model: PrunedVLM, **given: Any) -> Any:
    return model.generate(**{"max_new_tokens": 3, "question": ASKED, **given})


def logits(result: Any) -> torch.Tensor:
    return torch.stack(result["output"].logits)


RAW: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True}


# ---- the stock model


@pytest.mark.parametrize(
    ("texts", "pictures"),
    [
        pytest.param([PROMPT], [1], id="one image"),
        pytest.param([f"USER: <image>\n<image>\n{ASKED} ASSISTANT:"], [1, 2], id="two images"),
        pytest.param([PROMPT, f"USER: <image>\n{OTHER} ASSISTANT:"], [1, 1], id="two questions"),
        pytest.param([f"USER: {ASKED} ASSISTANT:"], [], id="text alone"),
    ],
)
def test_answers_without_pruning_are_those_of_the_stock_model_and_processor(
    stock: tuple[Any, Any], whole: PrunedVLM, texts: list[str], pictures: list[int]
) -> None:
    model, processor = stock
    shown = [picture(seed) for seed in pictures]
    inputs = processor(images=shown or None, text=texts, padding=True, padding_side="left", return_tensors="pt")
    with torch.inference_mode():
        expected = model.generate(**inputs, max_new_tokens=3, **RAW)
    questions = [ASKED, OTHER][: len(texts)]
    images = shown[: len(pictures) // len(texts)] or None
    found = ask(whole, images=images, question=questions if len(texts) > 1 else ASKED, **RAW)
    found = found if isinstance(found, list) else [found]
    assert torch.equal(found[0]["output"].sequences, expected.sequences)
    assert torch.equal(logits(found[0]), torch.stack(expected.logits))
    answers = processor.batch_decode(expected.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert [each["answer"] for each in found] == [text.strip() for text in answers]


def test_its_name_has_no_number_and_the_one_of_qwen_is_the_same_class(pruning: PrunedVLM) -> None:
    assert prunevid_qwen.PruneVidQwen25VL is PruneVidQwen25VL is PrunedVLM
    assert isinstance(pruning, PruneVidQwen25VL) and "PrunedVLM" in repr(pruning)
    assert pickle.loads(pickle.dumps(PruneVidQwen25VL)) is PrunedVLM
    assert {"PrunedVLM", "PruneVidQwen25VL"} <= set(prunevid_qwen.__all__)


# ---- pruning


def test_a_receipt_counts_what_was_kept_of_each_image(pruning: PrunedVLM, photo: Path) -> None:
    stats = ask(pruning, images=[str(photo), picture(2)], return_stats=True)["stats"]
    assert stats["tokens"]["visual"] == stats["tokens"]["after_stage1"] == 2 * TOKENS
    assert stats["tokens"]["after_stage2"] == stats["stage2"]["kept_tokens"] == TOKENS  # a half of each
    assert stats["stage2"]["applied"] and stats["stage2"]["layer"] == 1 and stats["stage3"]["applied"]
    text = stats["input"]["prompt_tokens"] - 2 * TOKENS
    assert stats["stage3"]["cache_lengths"] == [text + TOKENS] * 6
    first, second = stats["input"]["images"]
    side = int(TOKENS**0.5)
    assert first["source"] == str(photo) and first["size"] == second["size"] == [60, 70]
    assert first["resized"] == second["resized"] == [14 * side, 14 * side]
    assert first["grid"] == second["grid"] == [1, side, side] and not stats["input"]["videos"]
    assert stats["seconds"]["vision"] > 0


@pytest.mark.usefixtures("scores_apart")
def test_a_batch_of_questions_equals_each_alone(whole: PrunedVLM) -> None:
    model, shown = whole.with_config(PruneVidConfig(merger=None)), [picture(1), picture(2)]
    both = ask(model, images=shown, question=[ASKED, OTHER], return_stats=True)
    for question, found in zip((ASKED, OTHER), both, strict=True):
        alone = ask(model, images=shown, question=question, return_stats=True, **RAW)
        tokens_apart(alone["output"].logits)
        assert found["answer"] == alone["answer"]
        for name in ("tokens", "stage2", "input"):
            assert found["stats"][name] == alone["stats"][name]


def test_messages_show_several_images_where_they_stand(pruning: PrunedVLM) -> None:
    one, two = picture(1), picture(2)
    talk = [
        {"role": "user", "content": [{"type": "image", "image": one}, {"type": "text", "text": "the circle"}]},
        {"role": "assistant", "content": "blue"},
        {"role": "user", "content": [{"type": "image", "image": two}, {"type": "text", "text": ASKED}]},
    ]
    sample = pruning.frontend.sample(talk, pruning.config)
    assert sample.text == f"USER: <image>\nthe circle ASSISTANT: blue</s>USER: <image>\n{ASKED} ASSISTANT:"
    first, second = sample.media
    assert np.array_equal(first.pixels, np.asarray(one)) and np.array_equal(second.pixels, np.asarray(two))
    result = pruning.generate(messages=talk, max_new_tokens=2)
    assert result["stats"]["tokens"]["after_stage2"] == TOKENS


def test_preparing_and_answering_is_generating(
    pruning: PrunedVLM, whole: PrunedVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = pruning.prepare(images=[picture(1)], question=ASKED)
    with monkeypatch.context() as patch:  # the processor is asked once, and its seconds are those of reading
        patch.setattr(StockFrontend, "batch", lambda *_: pytest.fail("made again"))
        assert pruning.answer(prepared, max_new_tokens=1)["stats"]["seconds"]["read"] == prepared.seconds["read"]
    for model in (pruning, whole):
        expected = ask(model, images=[picture(1)], return_stats=True)
        found = model.answer(prepared, max_new_tokens=3)
        assert found["answer"] == expected["answer"]
        assert found["stats"]["tokens"] == expected["stats"]["tokens"]
        assert found["stats"]["input"] == expected["stats"]["input"]


class Streamed(BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = 0

    def put(self, value: Any) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended += 1


def test_a_streamer_gets_every_token(pruning: PrunedVLM) -> None:
    streamer = Streamed()
    result = ask(pruning, images=picture(1), streamer=streamer, return_dict_in_generate=True)
    assert streamer.tokens == result["output"].sequences[0].tolist() and streamer.ended == 1
    with pytest.raises(UnsupportedError):
        ask(pruning, video_path="a.mp4", streamer=streamer)
    assert streamer.ended == 2


def test_a_preset_that_prunes_videos_alone_is_refused(whole: PrunedVLM) -> None:
    with pytest.raises(ConfigError, match="merge_images"):
        whole.with_config(get_config("stage1_only"))
    stats = ask(
        whole.with_config(get_config("stage1_only").replace(merge_images=True)), images=[picture(1)], return_stats=True
    )["stats"]
    assert stats["stage1"]["applied"]


OTHERWISE = ("recommended", "fast", "glimpse", "stage1_only")


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in OTHERWISE])
def test_presets_leave_images_to_the_selector_and_say_so(whole: PrunedVLM, name: str) -> None:
    config = get_config(name)
    stats = ask(whole.with_config(config), images=[picture(1)], return_stats=True)["stats"]
    assert stats["tokens"]["after_stage1"] == TOKENS and not stats["stage1"]["applied"]
    assert (stats["stage1"]["note"] is not None) == config.enable_stage1
    kept = stats["tokens"]["after_stage2"]
    assert kept == (max(1, int(TOKENS * config.keep_ratio)) if config.enable_stage2 else TOKENS)


def test_fast_is_refused_for_a_model_that_is_shown_no_video(whole: PrunedVLM) -> None:
    with pytest.raises(UnsupportedError):
        ask(whole.with_config(get_config("fast")), images=[picture(1)])


def test_fastv_is_the_published_one(whole: PrunedVLM) -> None:
    """Half of the tokens from layer 2 on; the caches of layers 0 and 1 stay whole."""
    stats = ask(whole.with_config(get_fastv_config()), images=[picture(1)], return_stats=True)["stats"]
    text = stats["input"]["prompt_tokens"] - TOKENS
    assert stats["stage3"]["cache_lengths"] == [text + TOKENS] * 2 + [text + TOKENS // 2] * 4
    assert not stats["stage1"]["enabled"] and not stats["stage3"]["enabled"]


# ---- the next question


def test_a_follow_up_goes_on_from_the_cache(pruning: PrunedVLM) -> None:
    begun = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": ASKED}]}]
    first = pruning.generate(messages=begun, max_new_tokens=3, return_dict_in_generate=True)
    later = [*begun, {"role": "assistant", "content": first["answer"]}, {"role": "user", "content": OTHER}]
    cache = copy.deepcopy(first["past_key_values"])
    found = pruning.generate(messages=later, max_new_tokens=3, past_key_values=cache)
    assert isinstance(found["answer"], str)
    stats = found["stats"]
    assert stats["input"]["cached_tokens"] == first["stats"]["input"]["prompt_tokens"] + 2
    assert not any(stats[stage]["applied"] for stage in ("stage1", "stage2"))
    # unpruned: what the model says of the whole conversation, read anew
    whole = pruning.with_config(get_baseline_config())
    first = whole.generate(messages=begun, max_new_tokens=3, return_dict_in_generate=True)
    later[1] = {"role": "assistant", "content": first["answer"]}
    found = whole.generate(messages=later, max_new_tokens=3, past_key_values=first["past_key_values"], **RAW)
    ids = found["output"].sequences[:, :-3]
    pixels = whole.frontend.batch([whole.frontend.sample(begun, whole.config)])["pixel_values"]
    with torch.inference_mode():
        expected = whole.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=3, **RAW
        )
    tokens_apart(expected.logits)
    assert torch.equal(found["output"].sequences, expected.sequences)


def test_a_follow_up_on_a_pruned_cache_equals_masking(whole: PrunedVLM) -> None:
    """All that follows the prompt, the answer and the next question with it, sees the kept tokens alone."""
    model = whole.with_config(PruneVidConfig(merger=None))
    begun = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": ASKED}]}]
    first = model.generate(messages=begun, max_new_tokens=3, return_dict_in_generate=True)
    later = [*begun, {"role": "assistant", "content": first["answer"]}, {"role": "user", "content": OTHER}]
    found = model.generate(messages=later, max_new_tokens=3, past_key_values=first["past_key_values"], **RAW)
    inputs = model.frontend.batch([model.frontend.sample(begun, model.config)])
    with pruned(model.model, model.config) as trace:  # which tokens the first answer kept
        model.model.generate(**inputs, max_new_tokens=1)
    assert trace.samples[0].after_stage2 == int(0.4 * TOKENS)
    embeds, positions = text_inputs(model.model, inputs)
    sequences = found["output"].sequences
    [expected] = masked_logits(model.model, embeds, positions, inputs, sequences, trace, compress=True)
    close(logits(found)[:, 0], expected[-3:], LOGITS)


def test_a_follow_up_is_refused_where_the_template_leaves_open_where_an_answer_ends(folder: Path) -> None:
    made = PrunedVLM(AutoModelForImageTextToText.from_pretrained(folder), FASTV, processor=tiny_processor(HUB_TEMPLATE))
    begun = [{"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": ASKED}]}]
    first = made.generate(messages=begun, max_new_tokens=2, return_dict_in_generate=True)
    later = [*begun, {"role": "assistant", "content": first["answer"]}, {"role": "user", "content": OTHER}]
    with pytest.raises(UnsupportedError, match="chat template"):
        made.generate(messages=later, max_new_tokens=2, past_key_values=first["past_key_values"])


# ---- the command line


def test_ask_answers_about_a_photo(folder: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", "--model_path", str(folder), "--image", str(photo), "--question", ASKED, "--max_new_tokens", "3"]
    assert main([*words, "--device", "cpu", "--selector", "fastv", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert isinstance(told["answer"], str)
    assert told["stats"]["tokens"]["visual"] == TOKENS and told["stats"]["tokens"]["after_stage2"] == TOKENS // 2
    assert main([*words, "--device", "cpu", "--config", "fastv", "--compare", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["comparison"]["encoded_once"] is False and told["baseline"]["stats"]["seconds"]["vision"] > 0


def test_the_command_of_the_quickstart(
    folder: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "quickstart.md").read_text(encoding="utf-8")
    line = next(each for each in page.splitlines() if each.startswith("prunevid ask") and "llava" in each)
    monkeypatch.chdir(tmp_path)
    Image.open(photo).save("photo.jpg")
    words = [str(folder) if "llava-hf/" in word else word for word in shlex.split(line, comments=True)[1:]]
    assert main([*words, "--max_new_tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stats"]["input"]["images"][0]["source"] == "photo.jpg"


@pytest.mark.parametrize("command", ["ask", "batch"])
def test_help_names_every_family(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Help loads no adapter, so the names are written out there: under what each is shown."""
    assert main([command, "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    both, _, images = told.partition("Images alone:")
    for model_type in families():
        reads, name = frontend_for(model_type).reads_of(model_type), family_of(model_type).name
        where = both if "video" in reads else images.partition("Default")[0]
        assert re.search(rf"{re.escape(name)}[,. ]", where), f"name {name} in --model_path's help"


@pytest.mark.parametrize("command", ["ask", "demo"])
def test_a_video_is_refused_before_weights_are_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    bare = tmp_path / "config"
    bare.mkdir()
    (bare / "config.json").write_bytes((folder / "config.json").read_bytes())
    video = tmp_path / "a.mp4"
    video.write_bytes(b"not looked at")
    asked = ["--video_path", str(video), "--question", ASKED] if command == "ask" else []
    assert main([command, "--model_path", str(bare), *asked, "--json"]) == UnsupportedError.exit_code
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "UnsupportedError"


def test_training_refuses_it_before_weights_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ConfigError, match="max_pixels"):
        load_base(GlimpseRecipe(model_path=str(tmp_path)), "cpu")
    reinforced = GlimpsePlusRecipe.from_yaml("glimpse_plus_tiny").replace(model_path=str(tmp_path))
    monkeypatch.setattr("prunevid_qwen.training.glimpse_plus.train.check_installed", lambda: None)
    with pytest.raises(UnsupportedError, match="qwen2_5_vl"):
        train_plus(reinforced, tmp_path / "out", {"exact_match": exact_match}, check=False)


# ---- what is refused


def test_videos_are_refused_before_anything_runs(pruning: PrunedVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(pruning.model), "generate", lambda *_a, **_k: pytest.fail("it ran"))
    item = {"type": "video", "video": "missing.mp4"}
    for given in (
        {"video_path": "missing.mp4", "question": ASKED},
        {"video_path": [picture(1), picture(2)], "question": ASKED, "images": picture(1)},
        {"messages": [{"role": "user", "content": [item, {"type": "text", "text": ASKED}]}]},
    ):
        with pytest.raises(UnsupportedError, match="llava"):
            pruning.generate(**given)  # type: ignore[arg-type]
        with pytest.raises(UnsupportedError, match="llava"):
            pruning.prepare(**given)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="qwen2_5_vl"):
        _ = pruning.preprocessor


def test_sizes_are_the_processors(pruning: PrunedVLM) -> None:
    item = {"type": "image", "image": picture(1), "max_pixels": 12345}
    with pytest.raises(UnknownOption, match="max_pixels"):
        pruning.generate(messages=[{"role": "user", "content": [item, {"type": "text", "text": ASKED}]}])
    with pytest.raises(UnknownOption, match="max_pixels"):
        ask(pruning.with_config(FASTV.replace(max_pixels=28 * 28)), images=picture(1))
    with pytest.raises(ConfigError, match="<image>"):
        ask(pruning, images=picture(1), question="what is <image> ?")


def test_a_loaded_model_needs_its_processor_alone(stock: tuple[Any, Any]) -> None:
    model, processor = stock
    made = PrunedVLM(model, FASTV, processor=processor)
    assert made.tokenizer is processor.tokenizer
    for given in ({}, {"tokenizer": tiny_tokenizer()}, {"tokenizer": tiny_tokenizer(), "processor": processor}):
        with pytest.raises(ConfigError, match="processor"):
            PrunedVLM(model, FASTV, **given)
    with pytest.raises(SetupError, match="image_processor"):
        PrunedVLM(model, FASTV, processor=type("Half", (), {"tokenizer": tiny_tokenizer()})())


def test_a_folder_without_its_processor_says_what_to_fetch(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(SetupError, match="processor"):
        PrunedVLM(str(tmp_path), FASTV, device="cpu")


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ImportError("LlavaImageProcessor requires the Torchvision library"), "torchvision"),
        (RuntimeError("operator torchvision::nms does not exist"), "torchvision"),
        (ValueError("Couldn't instantiate the backend tokenizer"), "tokenizer"),
    ],
)
def test_what_a_processor_lacks_is_said_with_the_next_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, said: str
) -> None:
    def fail(*_given: Any, **_options: Any) -> Any:
        raise raised

    monkeypatch.setattr(AutoProcessor, "from_pretrained", fail)
    with pytest.raises(SetupError, match=said) as error:
        StockFrontend.from_pretrained(str(folder), "llava")
    assert error.value.__cause__ is raised


def test_families_that_are_not_known_are_listed(folder: Path, tmp_path: Path) -> None:
    about = json.loads((folder / "config.json").read_text())
    for changed, said in (
        ({"model_type": "llava_llama"}, "qwen2_5_vl"),  # transformers does not know it either
        ({"model_type": "idefics3"}, "qwen2_5_vl"),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "llava-hf"),  # the authors' own checkpoints
    ):
        (tmp_path / "config.json").write_text(json.dumps({**about, **changed}))
        with pytest.raises(UnsupportedError, match=said):
            PrunedVLM(str(tmp_path), FASTV, device="cpu")


def test_a_frontend_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(family_table._FAMILIES, "llava", replace(family_of("llava"), frontend="mine"))
    with pytest.raises(UnsupportedError, match="stock"):
        frontend_for("llava")
    monkeypatch.setitem(FRONTENDS, "mine", StockFrontend)
    assert frontend_for("llava") is StockFrontend


# ---- older downloads


def test_an_old_download_says_less_and_answers_the_same(folder: Path, whole: PrunedVLM, tmp_path: Path) -> None:
    """Before transformers 4.46 there was no processor_config.json, and no chat template."""
    for name in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        (tmp_path / name).symlink_to(folder / name)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "processor_class": "LlavaProcessor"}))
    settings = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**settings, "processor_class": "LlavaProcessor"}))
    old = PrunedVLM(str(tmp_path), get_baseline_config(), device="cpu")
    assert ask(old, images=picture(1))["answer"] == ask(whole, images=picture(1))["answer"]


def test_templates(folder: Path) -> None:
    """The one that the files bring goes before the family's; both see text that came as a string."""
    for template, end in ((None, "</s>"), (HUB_TEMPLATE, " ")):
        frontend = StockFrontend(tiny_processor(template), AutoModelForImageTextToText.from_pretrained(folder).config)
        talk: list[dict[str, Any]] = [
            {"role": "system", "content": "the circle"},
            {"role": "user", "content": "what"},
            {"role": "assistant", "content": "blue"},
            {"role": "user", "content": [{"type": "text", "text": ASKED}]},
        ]
        assert frontend.text(talk) == f"the circle USER: what ASSISTANT: blue{end}USER: {ASKED} ASSISTANT:"
        assert frontend.text(talk[:3]) == "the circle USER: what ASSISTANT: blue"  # is continued
