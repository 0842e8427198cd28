"""A Qwen3-VL in a folder, from files to answers: streamed, in batches, by command, in a benchmark."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_qwen import ConfigError, PrunedVLM, PruneVidConfig, UnsupportedError, get_baseline_config, pruned
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.picture_grids import PictureGrid
from prunevid_qwen.adapters.vision import vision_from_memory
from prunevid_qwen.cli import main
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.answering import Answerer, Answering
from prunevid_qwen.evaluation.engine.task import Task
from prunevid_qwen.evaluation.engine.task_media import ByConfig, ByProtocol, media_reader, media_wanted, read_media
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol
from prunevid_qwen.inputs.qwen.media import MediaReader, Medium
from prunevid_qwen.inputs.qwen.pixel_options import STOCK, PixelOptions, WholeVideo
from prunevid_qwen.inputs.qwen.qwen3 import Qwen3Preprocessor
from prunevid_qwen.training.glimpse.base import load_base
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from tests.media import encode
from tests.models import tiny_model
from tests.qwen3 import save_qwen3, settings, tiny_tokenizer
from tests.test_engine import Plain
from tests.tolerances import LOGITS, close, tokens_apart

ASKED, OTHER = "what color is the circle ?", "is the circle blue ?"
WHOLE = get_baseline_config().replace(max_frames=8)
PRUNING = PruneVidConfig(max_frames=8, keep_ratio=0.5, pruning_layer=2)
OUT = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> PrunedVLM:
    return PrunedVLM(str(folder), WHOLE, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("v") / "a.mp4", rate=10, frames=40, size=(56, 84))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("v") / "b.mp4", rate=4, frames=5, size=(84, 56))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(path)
    return path


def said(*items: Any) -> list[dict[str, Any]]:
    """A user's message of videos (.mp4), images and texts."""
    kinds = ["text" if isinstance(i, str) else "video" if i.suffix == ".mp4" else "image" for i in items]
    return [{"role": "user", "content": [{"type": k, k: i} for k, i in zip(kinds, items, strict=True)]}]


def stock_answer(model: PrunedVLM, *conversations: list[dict[str, Any]]) -> tuple[dict[str, Any], Any]:
    """Inputs with all pixels, and what the stock model says to them."""
    inputs = model.frontend.batch([model.frontend.sample(each, model.config) for each in conversations])
    with torch.no_grad():
        return inputs, model.model.generate(**inputs, do_sample=False, **OUT)


# ---- answers


@pytest.mark.parametrize("shown", ["video", "image", "both", "two videos"])
def test_without_pruning_an_answer_is_the_stock_models(
    whole: PrunedVLM, video: Path, other: Path, photo: Path, shown: str
) -> None:
    """Bit for bit: frames are read and encoded ahead, DeepStack's levels too."""
    items = {"video": [video], "image": [photo], "both": [video, photo], "two videos": [other, "and", video]}[shown]
    _, stock = stock_answer(whole, said(*items, ASKED))
    got = whole.generate(messages=said(*items, ASKED), do_sample=False, **OUT)["output"]
    assert torch.equal(got.sequences, stock.sequences)
    assert all(torch.equal(one, two) for one, two in zip(got.logits, stock.logits, strict=True))


def test_the_prompt_has_the_times_of_the_frames(whole: PrunedVLM, video: Path, other: Path) -> None:
    inputs, _ = stock_answer(whole, said(video, other, ASKED))
    text = whole.tokenizer.decode(inputs["input_ids"][0])
    # 8 of 40 frames at 10 a second: 0, 6, 11, 17, 22, 28, 33, 39; 5 frames at 4 a second, the last of them twice
    for time in ("<0.3 seconds>", "<1.4 seconds>", "<2.5 seconds>", "<3.6 seconds>", "<0.1 seconds>", "<0.6 seconds>"):
        assert f"{time}<|vision_start|><|video_pad|>" in text
    assert text.count("seconds>") == 7 and "<1.0 seconds><|vision_start|>" in text
    assert inputs["video_grid_thw"].tolist() == [[4, 4, 6], [3, 6, 4]]
    assert set(inputs) == {
        "input_ids", "attention_mask", "mm_token_type_ids", "pixel_values_videos", "video_grid_thw"
    }  # fmt: skip


def test_the_users_words_are_found_behind_either_closing_bracket(
    whole: PrunedVLM, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for older in (False, True):
        monkeypatch.setattr("prunevid_qwen.inputs.qwen.qwen3._replaces_brackets", lambda older=older: older)
        [ids] = whole.frontend.batch([whole.frontend.sample(said(video, ASKED), WHOLE)])["input_ids"]
        layout = adapter_for(whole.model).layout(ids, None, len(ids), [PictureGrid("video", (4, 2, 3))])
        assert layout is not None and layout.words is not None
        assert whole.tokenizer.decode(ids[layout.question[slice(*layout.words)]]) == ASKED
        framed = adapter_for(whole.model).framed(layout, ids)  # for drop_empty_frames
        assert framed.words is not None and framed.frames is not None
        assert whole.tokenizer.decode(ids[framed.question[slice(*framed.words)]]) == ASKED
        for frame, time in enumerate(("0.3", "1.4", "2.5", "3.6")):
            text = whole.tokenizer.decode(ids[framed.frames == frame])
            assert text == f"<{time} seconds><|vision_start|>{'<|video_pad|>' * 6}<|vision_end|>"


@pytest.mark.usefixtures("scores_apart")
@pytest.mark.parametrize("tokens", [6, 14])
def test_a_stream_is_answered_as_the_whole(whole: PrunedVLM, video: Path, tokens: int) -> None:
    model = whole.with_config(PRUNING.replace(vision_chunk_tokens=tokens))
    inputs = model.frontend.batch([model.frontend.sample(said(video, ASKED), PRUNING)])
    with pruned(model.model, PRUNING) as trace, torch.no_grad():
        stock = model.model.generate(**inputs, do_sample=False, **OUT)
    tokens_apart(stock.logits)
    sizes: list[int] = []
    handle = adapter_for(model.model).parts.vision.patch_embed.register_forward_pre_hook(
        lambda _m, args: sizes.append(len(args[0]) // 4)
    )
    frames: list[tuple[int, int]] = []
    try:
        result = model.generate(
            str(video), ASKED, do_sample=False, return_stats=True, progress=lambda *at: frames.append(at), **OUT
        )
    finally:
        handle.remove()
    assert sizes == {6: [6, 6, 6, 6], 14: [12, 12]}[tokens]  # positions of six tokens
    assert frames[-1] == (8, 8)
    assert result["stats"]["tokens"]["after_stage2"] == trace.samples[0].after_stage2 < 24
    assert torch.equal(result["output"].sequences, stock.sequences)
    for one, two in zip(result["output"].logits, stock.logits, strict=True):
        close(one, two, LOGITS)


@pytest.mark.usefixtures("scores_apart")
def test_a_batch_is_answered_as_its_members(whole: PrunedVLM, video: Path, other: Path) -> None:
    model = whole.with_config(PRUNING)
    both = model.generate([str(video), str(other)], [ASKED, OTHER], do_sample=False, return_stats=True, **OUT)
    for i, (path, question) in enumerate(((video, ASKED), (other, OTHER))):
        alone = model.generate(str(path), question, do_sample=False, return_stats=True, **OUT)
        assert both[i]["stats"]["tokens"] == alone["stats"]["tokens"]
        for one, two in zip(both[i]["output"].logits, alone["output"].logits, strict=True):
            close(one[i], two[0], LOGITS)


def test_what_is_prepared_is_answered_under_any_config(whole: PrunedVLM, video: Path, photo: Path) -> None:
    prepared = whole.prepare(messages=said(video, photo, ASKED))
    assert len(prepared.encoded.features) == 2
    for config in (WHOLE, PRUNING):
        model = whole.with_config(config)
        got = model.answer(prepared, do_sample=False, **OUT)["output"]
        direct = model.generate(messages=said(video, photo, ASKED), do_sample=False, **OUT)["output"]
        assert torch.equal(got.logits[0], direct.logits[0])


def test_a_conversation_goes_on_from_its_cache(whole: PrunedVLM, video: Path) -> None:
    model = whole.with_config(PRUNING)
    first = model.generate(messages=said(video, ASKED), do_sample=False, **OUT)
    more = [*said(video, ASKED), {"role": "assistant", "content": first["answer"]}, *said(OTHER)]
    cache = copy.deepcopy(first["past_key_values"])
    second = model.generate(messages=more, past_key_values=cache, do_sample=False, return_stats=True, **OUT)
    assert second["stats"]["input"]["cached_tokens"] > 24 and second["answer"]


def test_the_mixture_of_experts_answers_too(tmp_path: Path, video: Path) -> None:
    model = PrunedVLM(str(save_qwen3(tmp_path / "moe", "qwen3_vl_moe")), WHOLE, device="cpu")
    _, stock = stock_answer(model, said(video, ASKED))
    got = model.generate(str(video), ASKED, do_sample=False, **OUT)["output"]
    assert torch.equal(got.sequences, stock.sequences)
    stats = model.with_config(PRUNING).generate(str(video), ASKED, max_new_tokens=2, return_stats=True)["stats"]
    assert stats["tokens"]["visual"] == 24 > stats["tokens"]["after_stage2"] > 0


# ---- memory


def test_features_are_answered_with_their_levels(whole: PrunedVLM, video: Path) -> None:
    tower = adapter_for(whole.model).parts.vision
    medium = whole.frontend.media.read_video(str(video), WHOLE)
    with vision_from_memory(tower) as videos, torch.no_grad():
        features = videos.encode(medium.pixels, medium.grid)
        stock = tower(medium.pixels, grid_thw=medium.grid)
        held = torch.cat([videos.hold(features), videos.hold(features._replace(tokens=-features.tokens))])
        got = tower(held, grid_thw=medium.grid.repeat(2, 1))
    assert len(got.deepstack_features) == 3
    for one, two in zip(got.deepstack_features, stock.deepstack_features, strict=True):
        assert torch.equal(one, torch.cat([two, -two]))
    assert torch.equal(got.pooler_output[: len(features.tokens)], stock.pooler_output)


# ---- settings


def test_a_loaded_model_needs_its_tokenizer_alone(video: Path) -> None:
    model = PrunedVLM(tiny_model(family="qwen3_vl"), WHOLE, tokenizer=tiny_tokenizer())
    assert isinstance(model.frontend, Qwen3Preprocessor)
    assert model.frontend.media.video == STOCK["qwen3"]["video"] and model.frontend.media.image.patch_size == 16
    given = {kind: settings(kind, 14, size={"shortest_edge": 784, "longest_edge": 7840}) for kind in ("video", "image")}
    processors = {f"{kind}_processor": SimpleNamespace(to_dict=given[kind].copy) for kind in given}
    owner = SimpleNamespace(tokenizer=tiny_tokenizer(), **processors)
    model = PrunedVLM(tiny_model(family="qwen3_vl"), WHOLE, processor=owner)
    assert model.frontend.media.video.whole == WholeVideo(784, 7840)
    assert model.generate(str(video), ASKED, max_new_tokens=2, return_stats=True)["stats"]["tokens"]["visual"] == 4


def test_settings_are_those_of_the_folder(folder: Path) -> None:
    reader = media_reader(str(folder), {})
    token = 28 * 28
    assert reader.video.whole == WholeVideo(token, 256 * token) and reader.video.factor == 28
    assert (reader.image.min_pixels, reader.image.max_pixels) == (token, 16 * token)
    assert reader.image.image_mean == reader.video.image_std == (0.5, 0.5, 0.5)


def test_limits_of_a_config_hold(whole: PrunedVLM, video: Path) -> None:
    read, token = whole.frontend.media.read_video, 28 * 28

    def grid(**given: Any) -> list[int]:
        return read(str(video), WHOLE, **given).facts["grid"]

    assert grid() == [4, 2, 3]
    assert grid(max_pixels=4 * token) == [4, 1, 2]
    assert grid(total_pixels=4 * 3 * token) == [4, 1, 2]
    assert grid(min_pixels=20 * token, max_pixels=24 * token) == [4, 4, 6]
    assert grid(resized=(56, 112)) == [4, 2, 4]
    for wrong in ({"max_pixels": token - 1}, {"total_pixels": 4 * token - 1}):
        with pytest.raises(ConfigError, match=str(token)):
            grid(**wrong)


def test_times_that_do_not_belong_to_the_frames_are_refused(whole: PrunedVLM, video: Path) -> None:
    medium = whole.frontend.media.read_video(str(video), WHOLE)

    def ids(facts: dict[str, Any]) -> Any:
        shown = Medium("video", medium.pixels, medium.grid, 2.0, facts)
        content = [{"type": "video", "video": shown}, {"type": "text", "text": ASKED}]
        return whole.frontend.batch([whole.frontend.sample([{"role": "user", "content": content}], WHOLE)])["input_ids"]

    with pytest.raises(ConfigError, match="timestamps"):
        ids({"timestamps": [0.0, 1.0]})
    # made by hand and without times: equally spaced, as its maker says
    assert "<0.5 seconds>" in whole.tokenizer.decode(ids({})[0]) and "<6.5 seconds>" in whole.tokenizer.decode(
        ids({})[0]
    )


# ---- commands and benchmarks


def test_ask(folder: Path, video: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", str(video), str(photo), ASKED, "--model_path", str(folder), "--max_new_tokens", "2", "--json"]
    assert main([*words, "--max_frames", "8", "--device", "cpu"]) == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    assert [each["grid"] for each in stats["input"]["videos"]] == [[4, 2, 3]]
    assert stats["tokens"]["after_stage2"] < stats["tokens"]["visual"]


@pytest.mark.parametrize("config", [WHOLE, PRUNING], ids=["whole", "pruning"])
def test_a_benchmark_asks_as_the_package_does(whole: PrunedVLM, folder: Path, video: Path, config: Any) -> None:
    reader = media_reader(str(folder), {})
    answerer = Answerer(whole.with_config(config), (("own", config),), {"max_new_tokens": 3})
    task = Task((Media("video", str(video)),), ((Plain("a", ASKED), ("own",)),))
    read = read_media(ByConfig(config, reader.video, reader.image), task.media)
    [line] = answerer.answer(task, read)
    alone = whole.with_config(config).generate(str(video), ASKED, max_new_tokens=3, do_sample=False, return_stats=True)
    assert line["error"] is None and line["raw"].strip() == alone["answer"]
    assert line["tokens"]["after_stage2"] == alone["stats"]["tokens"]["after_stage2"]
    assert line["tokens"]["prompt"] == alone["stats"]["input"]["prompt_tokens"]


def test_a_protocol_gives_each_frame_its_size_and_the_prompt_their_times(whole: PrunedVLM, video: Path) -> None:
    media = whole.frontend.media
    protocol = EvalProtocol("mvbench", "letter", frames=4, min_pixels=784, max_pixels=4 * 784, total_pixels=None)
    [read] = read_media(ByProtocol(protocol, media.video, media.image), (Media("video", str(video)),)).media
    assert read.frames.shape[1:3] == (28, 56)
    answerer = Answerer(whole, (("own", WHOLE),), {"max_new_tokens": 2})
    task = Task((Media("video", str(video)),), ((Plain("a", ASKED), ("own",)),))
    [line] = answerer.answer(task, read_media(ByProtocol(protocol, media.video, media.image), task.media))
    assert line["error"] is None and line["tokens"]["visual"] == 4
    held = Medium("video", torch.zeros(16, 2), torch.tensor([[2, 2, 4]]), 1.0, read.facts)
    ids = whole.frontend.batch([whole.frontend.sample(said_medium(held), WHOLE)])["input_ids"]
    first = sum(read.timestamps[:2]) / 2
    assert f"<{first:.1f} seconds>" in whole.tokenizer.decode(ids[0])


def test_a_run_says_what_a_token_is_and_refuses_frames_of_less(folder: Path) -> None:
    wanted = media_wanted(str(folder), {})
    assert wanted.facts == {"not_applied": ["seconds_per_grid", "position_scheme"]}
    larger = replace(wanted, video=STOCK["qwen3"]["video"])
    assert larger.facts["token_pixels"] == 32 * 32 and media_wanted("bundled", {}).facts == {}
    protocol = EvalProtocol("mvbench", "letter", min_pixels=784, max_pixels=1023)
    assert wanted.by_protocol(protocol, "pyav", None)
    with pytest.raises(ConfigError, match="1024"):
        larger.by_protocol(protocol, "pyav", None)


def said_medium(medium: Medium) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video", "video": medium}, {"type": "text", "text": ASKED}]}]


def test_batch(folder: Path, video: Path, photo: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    asked = [{"video": str(video), "question": ASKED}, {"image": str(photo), "question": OTHER}]
    questions.write_text("".join(json.dumps(each) + "\n" for each in asked))
    words = ["--model_path", str(folder), "--out", str(tmp_path / "out.jsonl"), "--max_new_tokens", "2"]
    assert main(["batch", str(questions), *words, "--workers", "0", "--max_frames", "8", "--device", "cpu"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["error"] for line in lines] == [None, None]
    assert lines[0]["tokens"]["visual"] == 24 > lines[0]["tokens"]["after_stage2"]


def test_evaluation_loads_it_and_training_refuses_it(folder: Path) -> None:
    answering = Answering((("own", PRUNING),), str(folder), {"device": "cpu"})
    assert isinstance(answering.load().model.frontend, Qwen3Preprocessor)
    with pytest.raises(UnsupportedError):
        load_base(GlimpseRecipe(model_path=str(folder)), "cpu")


def test_where_nothing_is_set_the_published_settings_hold() -> None:
    for kind, stock in STOCK["qwen3"].items():
        assert PixelOptions.from_folder_json(settings(kind), video=kind == "video", frontend="qwen3") == stock
        assert PixelOptions.from_folder_json({}, video=kind == "video", frontend="qwen3") == stock


def test_a_reader_by_itself_is_qwen2_5_vls() -> None:
    assert MediaReader().video == STOCK["qwen"]["video"] and MediaReader().image == STOCK["qwen"]["image"]
