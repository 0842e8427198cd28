"""Families that the library's processor reads for: prompts, pixels and answers of images and videos, from folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_qwen import PrunedVLM, PruneVidConfig, SetupError, UnsupportedError, get_baseline_config
from prunevid_qwen.adapters.tiny import IMAGE, SIDE, VIDEO
from prunevid_qwen.adapters.tiny.newlines import tiled
from prunevid_qwen.cli.app import main
from prunevid_qwen.errors import ConfigError, UnknownOption
from prunevid_qwen.inputs.frontends import StockFrontend, check_reads, stock_loading
from prunevid_qwen.inputs.frontends.plain_videos import VIDEO_DEFAULTS, PlainVideoProcessor
from prunevid_qwen.inputs.frontends.templates import DEFAULT_TEMPLATES, default_template
from prunevid_qwen.loading import config_of
from tests.media import encode
from tests.stock_folders import PROCESSORS, save_folder
from tests.tolerances import LOGITS, close

ASKED = "what color is the circle ?"
SIZES = {"one": (100, 200), "other": (90, 40)}  # height and width of images
EVERY = pytest.mark.parametrize("family", PROCESSORS)
VIDEOS = pytest.mark.parametrize("family", [each for each in PROCESSORS if "video_processor" in PROCESSORS[each]])
RAW: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True}
FRAMES = np.random.default_rng(5).integers(0, 256, (7, 60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = save_folder(tmp_path_factory.mktemp(family), family)
        return made[family]

    return folder


@pytest.fixture(scope="module")
def models(folders: Any) -> Any:
    made: dict[str, PrunedVLM] = {}

    def model(family: str) -> PrunedVLM:
        if family not in made:
            made[family] = PrunedVLM(str(folders(family)), get_baseline_config(), device="cpu")
        return made[family]

    return model


def picture(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8))


def tokens(family: str, kind: str, size: Any, alone: bool = True) -> int:
    """Placeholders of an image of a size in pixels, or of a video of so many frames."""
    cells = SIDE**2
    if kind == "video":
        each = {"video_llava": cells + 1}.get(family, (SIDE // 2) ** 2)
        return int(size) * each + (family == "llava_onevision")
    if family == "video_llava":
        return cells
    if family == "llava_onevision" and not alone:
        return cells + 1
    (rows, columns), _ = tiled(*size, 3 if family == "llava_onevision" else None)
    return cells + rows * (columns + 1)


def expanded(family: str, model: PrunedVLM, text: str, images: list[Any], frames: list[int]) -> list[int]:
    """Ids of a prompt whose placeholders are written out by hand."""
    counts = [("<image>", [tokens(family, "image", size, len(images) == 1) for size in images])]
    counts.append(("<video>", [tokens(family, "video", each) for each in frames]))
    for mark, numbers in counts:
        for number in numbers:
            text = text.replace(mark, "\0" * number, 1)
        text = text.replace("\0", mark)
    ids: list[int] = model.tokenizer(text)["input_ids"]
    return ids


def said(family: str, media: str) -> str:
    """The prompt of the family's default template."""
    if family == "llava_onevision":
        return f"<|im_start|>user {media}{ASKED}<|im_end|><|im_start|>assistant\n"
    return f"USER: {media}{ASKED} ASSISTANT:"


# ---- prompts and pixels


@EVERY
@pytest.mark.parametrize("images", [("one",), ("other",), ("one", "other")], ids="-".join)
def test_images_are_read_by_the_librarys_pil_processor(family: str, images: tuple[str, ...], models: Any) -> None:
    model, sizes = models(family), [SIZES[each] for each in images]
    content = [{"type": "image", "image": picture(size)} for size in sizes]
    talk = [{"role": "user", "content": [*content, {"type": "text", "text": ASKED}]}]
    sample = model.frontend.sample(talk, model.config)
    assert sample.text == said(family, "<image>\n" * len(images))
    made = model.frontend.batch([sample])
    assert made["input_ids"][0].tolist() == expanded(family, model, sample.text, sizes, [])
    shown = [picture(size) for size in sizes]
    alone = model.frontend.processor.image_processor([shown], return_tensors="pt")
    for name, pixels in alone.items():
        assert torch.equal(made[name], pixels), name


@VIDEOS
def test_a_video_is_read_by_us_and_written_by_the_librarys_processor(family: str, models: Any) -> None:
    model = models(family)
    config = model.config.replace(max_frames=4)
    talk = [{"role": "user", "content": [{"type": "video", "video": FRAMES}, {"type": "text", "text": ASKED}]}]
    sample = model.frontend.sample(talk, config)
    assert sample.text == said(family, "<video>\n")
    made = model.frontend.batch([sample])
    assert made["input_ids"][0].tolist() == expanded(family, model, sample.text, [], [4])
    plain = PlainVideoProcessor(PROCESSORS[family]["video_processor"], family)
    assert torch.equal(made["pixel_values_videos"][0], plain.pixels(FRAMES[[0, 2, 4, 6]]))
    (clip,) = sample.media
    assert clip.indices == (0, 2, 4, 6) and clip.metadata["total_num_frames"] == 7
    assert clip.facts["frames"] == 4 and clip.facts["timestamps"] == [0.0, 1.0, 2.0, 3.0]
    assert clip.facts["seconds_per_grid"] == pytest.approx(3.5 / 4)


@VIDEOS
def test_an_odd_number_of_frames_is_not_filled_up(family: str, models: Any) -> None:
    model = models(family)
    item = {"type": "video", "video": FRAMES[:5], "nframes": 5}
    sample = model.frontend.sample([{"role": "user", "content": [item, {"type": "text", "text": ASKED}]}], model.config)
    made = model.frontend.batch([sample])
    assert made["pixel_values_videos"].shape[:2] == (1, 5) and sample.media[0].facts["padded"] == 0
    assert int((made["input_ids"] == VIDEO).sum()) == tokens(family, "video", 5)


@VIDEOS
def test_videos_and_images_of_a_batch_stand_where_they_are_said(family: str, models: Any) -> None:
    model, (one, other) = models(family), SIZES.values()
    config = model.config.replace(max_frames=4)
    video = {"type": "video", "video": FRAMES}
    ask = {"type": "text", "text": ASKED}
    rows = [
        [ask],
        [video, {"type": "image", "image": picture(one)}, ask],
        [{"type": "image", "image": picture(other)}, ask],
    ]
    samples = [model.frontend.sample([{"role": "user", "content": row}], config) for row in rows]
    made = model.frontend.batch(samples)
    wanted: list[tuple[list[Any], list[int]]] = [([], []), ([one], [4]), ([other], [])]
    for b, (sizes, frames) in enumerate(wanted):
        own = made["input_ids"][b][made["attention_mask"][b].bool()].tolist()
        assert own == expanded(family, model, samples[b].text, sizes, frames)
    assert int(made["attention_mask"][0, 0]) == 0  # padded on the left
    assert int((made["input_ids"] == IMAGE).sum()) == sum(tokens(family, "image", size) for size in (one, other))


# ---- answers


@EVERY
def test_an_answer_without_pruning_is_the_stock_models(family: str, models: Any) -> None:
    model, media = models(family), {"images": picture(SIZES["one"])}
    if "video_processor" in PROCESSORS[family]:
        media["video_path"] = FRAMES
    found = model.generate(question=ASKED, max_new_tokens=3, **media, **RAW)
    names = [("video", FRAMES)] * ("video_path" in media) + [("image", media["images"])]
    talk = [
        {"role": "user", "content": [{"type": k, k: each} for k, each in names] + [{"type": "text", "text": ASKED}]}
    ]
    inputs = model.frontend.batch([model.frontend.sample(talk, model.config)])
    with torch.inference_mode():
        expected = model.model.generate(**inputs, max_new_tokens=3, **RAW)
    assert torch.equal(found["output"].sequences, expected.sequences)
    close(torch.stack(found["output"].logits), torch.stack(expected.logits), LOGITS)


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("v") / "a.mp4", frames=20)


@EVERY
def test_ask_answers_from_the_folder(
    family: str, folders: Any, tmp_path: Path, mp4: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(SIZES["one"]).save(tmp_path / "a.png")
    shown = ["--image", str(tmp_path / "a.png")]
    if family in VIDEO_DEFAULTS:
        shown += ["--video_path", str(mp4), "--max_frames", "4"]
    words = ["ask", "--model_path", str(folders(family)), *shown, "--question", ASKED, "--max_new_tokens", "3"]
    assert main([*words, "--device", "cpu", "--keep_ratio", "0.5", "--pruning_layer", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    stats = told["stats"]
    assert isinstance(told["answer"], str)
    asked = tokens(family, "image", SIZES["one"]) + (tokens(family, "video", 4) if family in VIDEO_DEFAULTS else 0)
    assert stats["tokens"]["visual"] == asked > stats["tokens"]["after_stage2"] and stats["stage3"]["applied"]
    (image,) = stats["input"]["images"]
    assert image["grid"] == [1, SIDE, SIDE] and image["resized"] == [SIDE * 14] * 2
    if family in VIDEO_DEFAULTS:
        (video,) = stats["input"]["videos"]
        assert video["frames"] == video["grid"][0] == 4 and video["resized"] == [SIDE * 14] * 2
        assert video["source"] == str(mp4) and video["backend"] == "pyav" and len(video["timestamps"]) == 4


@VIDEOS
def test_a_part_of_a_video_and_two_questions(family: str, models: Any, mp4: Path) -> None:
    model = models(family).with_config(PruneVidConfig(keep_ratio=0.5, pruning_layer=2, max_frames=4))
    both = model.generate(mp4, [ASKED, "is the circle blue ?"], start=0.2, end=0.6, max_new_tokens=2, return_stats=True)
    for found in both:
        (video,) = found["stats"]["input"]["videos"]
        assert video["timestamps"][0] > 0.1 and video["timestamps"][-1] <= 0.65
    prepared = model.prepare(mp4, ASKED, start=0.2, end=0.6)
    assert model.answer(prepared, max_new_tokens=2)["answer"] == both[0]["answer"]


# ---- what is refused


@VIDEOS
def test_sizes_and_unlike_lengths_are_refused(family: str, models: Any) -> None:
    model = models(family)
    with pytest.raises(UnknownOption, match="max_pixels"):
        model.frontend.open_video(FRAMES, model.config, None, max_pixels=28 * 28)
    with pytest.raises(UnknownOption, match="total_pixels"):
        model.frontend.open_video(FRAMES, model.config.replace(total_pixels=10**6), None)
    with pytest.raises(ConfigError, match="<video>"):
        model.generate(FRAMES, "what is <video> ?", max_new_tokens=1)
    samples = []
    for frames in (FRAMES, FRAMES[:3]):
        content = [{"type": "video", "video": frames}, {"type": "text", "text": ASKED}]
        samples.append(model.frontend.sample([{"role": "user", "content": content}], model.config))
    with pytest.raises(UnsupportedError, match="3 and 7"):
        model.frontend.batch(samples)


@EVERY
def test_which_media_a_family_is_shown_is_told_by_its_config_alone(family: str, tmp_path: Path) -> None:
    save_folder(tmp_path, family, weights=False)
    check_reads(str(tmp_path), "image", {})
    if family in VIDEO_DEFAULTS:
        check_reads(str(tmp_path), "video", {})
    else:
        with pytest.raises(UnsupportedError, match=family):
            check_reads(str(tmp_path), "video", {})


def test_settings_are_read_where_the_library_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the processor's file, else in that of videos, else in that of images, as old downloads have it."""
    monkeypatch.setattr(stock_loading, "find_spec", lambda _name: None)
    save_folder(tmp_path, "video_llava", weights=False)
    small, large = ({"size": {"shortest_edge": n}, "crop_size": {"height": n, "width": n}} for n in (28, 42))
    names = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
    (tmp_path / names[1]).write_text(json.dumps(small))
    image = {**PROCESSORS["video_llava"]["image_processor"], **large}
    (tmp_path / names[2]).write_text(json.dumps(image))
    sides = []
    for name in names:
        frontend = StockFrontend.from_pretrained(str(tmp_path), "video_llava")
        sides.append(frontend.processor.video_processor.pixels(FRAMES[:1]).shape[-1])
        left = json.loads((tmp_path / names[0]).read_text())
        left.pop("video_processor", None)
        (tmp_path / names[0]).write_text(json.dumps(left))
        if name == names[1]:
            (tmp_path / name).unlink()
    assert sides == [SIDE * 14, 28, 42]


def test_a_setting_that_only_torchvision_does_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock_loading, "find_spec", lambda _name: None)
    save_folder(tmp_path, "llava_onevision", weights=False)
    written = json.loads((tmp_path / "processor_config.json").read_text())
    written["video_processor"]["resample"] = 1
    (tmp_path / "processor_config.json").write_text(json.dumps(written))
    with pytest.raises(SetupError, match=r"prunevid_qwen\[torchvision\]") as caught:
        StockFrontend.from_pretrained(str(tmp_path), "llava_onevision")
    assert caught.value.__cause__ is None, "it was taken for an error of the library"


def test_old_downloads_say_the_rest_in_the_models_config(tmp_path: Path) -> None:
    for family in ("llava_onevision", "llava_next_video"):
        folder = save_folder(tmp_path / family, family, weights=False)
        written = {
            name: value for name, value in PROCESSORS[family].items()
            if name in ("processor_class", "image_processor", "video_processor", "vision_aspect_ratio")
        }  # fmt: skip
        (folder / "processor_config.json").write_text(json.dumps(written))
        frontend = StockFrontend.from_pretrained(str(folder), family)
        config = PruneVidConfig(max_frames=4)
        content = [{"type": "video", "video": FRAMES}, {"type": "image", "image": picture(SIZES["one"])}]
        talk = [{"role": "user", "content": [*content, {"type": "text", "text": ASKED}]}]
        ids = frontend.batch([frontend.sample(talk, config)])["input_ids"]
        assert int((ids == VIDEO).sum()) == tokens(family, "video", 4)
        assert int((ids == IMAGE).sum()) == tokens(family, "image", SIZES["one"])


def test_a_download_without_a_processors_file(tmp_path: Path) -> None:
    """Its settings stand in the files of images and of videos."""
    written = PROCESSORS["llava_onevision"]
    save_folder(tmp_path, "llava_onevision", weights=False)
    (tmp_path / "processor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written["image_processor"]))
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(written["video_processor"]))
    shows_four_frames(tmp_path)


def test_a_download_with_the_image_processors_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As llava-hf/ has them; "do_pad" is of an image's tiles."""
    monkeypatch.setattr(stock_loading, "find_spec", lambda _name: None)
    save_folder(tmp_path, "llava_onevision", weights=False)
    written = json.loads((tmp_path / "processor_config.json").read_text())
    del written["video_processor"]
    image = {**written.pop("image_processor"), "do_pad": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(image))
    (tmp_path / "processor_config.json").write_text(json.dumps(written))
    shows_four_frames(tmp_path)


def shows_four_frames(folder: Path) -> None:
    frontend = StockFrontend.from_pretrained(str(folder), "llava_onevision")
    talk = [{"role": "user", "content": [{"type": "video", "video": FRAMES}, {"type": "text", "text": ASKED}]}]
    made = frontend.batch([frontend.sample(talk, PruneVidConfig(max_frames=4))])
    assert int((made["input_ids"] == VIDEO).sum()) == tokens("llava_onevision", "video", 4)
    assert made["pixel_values_videos"].shape == (1, 4, 3, SIDE * 14, SIDE * 14)


ORIGINALS = [
    ({"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama"}, "convert_llava_weights_to_hf"),
    (
        {"architectures": ["LlavaMistralForCausalLM"], "image_aspect_ratio": "anyres"},
        "convert_llava_next_weights_to_hf",
    ),
    ({"mm_vision_tower": "clip", "mm_spatial_pool_mode": "average"}, "convert_llava_next_video_weights_to_hf"),
    ({"architectures": ["LlavaQwenForCausalLM"], "mm_vision_tower": "google/siglip-so400m-patch14-384",
      "model_type": "llava"}, "convert_llava_onevision_weights_to_hf"),
    ({"architectures": ["LlavaQwenForCausalLM"], "mm_newline_position": "grid"}, "llava-onevision"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "named"), ORIGINALS)
def test_checkpoints_of_the_authors_format_are_told_their_conversion(
    config: dict[str, Any], named: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_qwen", "hidden_size": 64, **config}))
    with pytest.raises(UnsupportedError, match=named):
        config_of(str(tmp_path), {})


def test_a_converted_llava_video_is_a_llava_onevision(folders: Any) -> None:
    """Its config is transformers' own: nothing is said of it."""
    assert config_of(str(folders("llava_onevision")), {}).model_type == "llava_onevision"


# ---- templates


@pytest.mark.parametrize("name", DEFAULT_TEMPLATES)
def test_default_templates_write_what_is_shown_before_the_words(name: str, folders: Any) -> None:
    tokenizer = StockFrontend.from_pretrained(str(folders("llava_next")), "llava_next").tokenizer
    talk = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "video"}]},
    ]
    written = tokenizer.apply_chat_template(
        talk, chat_template=DEFAULT_TEMPLATES[name], tokenize=False, add_generation_prompt=True
    )
    if name.endswith("mistral"):
        assert written == "[INST] <image>\na [/INST] b</s>[INST] <video>\nc [/INST]"
    elif name.startswith("llava_onevision"):
        turns = ["user <image>\na", "assistant b", "user <video>\nc"]
        assert written == "".join(f"<|im_start|>{turn}<|im_end|>" for turn in turns) + "<|im_start|>assistant\n"
    else:
        assert written == "USER: <image>\na ASSISTANT: b</s>USER: <video>\nc ASSISTANT:"


def test_a_decoder_whose_template_is_not_known_has_none(folders: Any) -> None:
    config = config_of(str(folders("llava_next")), {})
    assert default_template(config) == DEFAULT_TEMPLATES["llava_next llama"]
    config.text_config.model_type = "gemma"
    assert default_template(config) is None
