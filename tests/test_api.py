"""PruneVidQwen25VL: what goes in, what comes out, what is refused. Weights are random; answers are not looked at."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import utils as hub
from PIL import Image
from transformers.utils import logging as transformers_logging

from prunevid_qwen import (
    ConfigError,
    MediaError,
    PruneVidQwen25VL,
    PruningNotApplied,
    SetupError,
    UnsupportedError,
    get_baseline_config,
    get_paper_config,
    get_stage1_only_config,
    loading,
    pruned,
)
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.errors import UnknownOption
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import make_scene, write_frames, write_video
from prunevid_qwen.moving_shapes.drawing import render
from prunevid_qwen.receipt import check_applied
from research.bundled_model.architecture import build_model
from research.bundled_model.tokenizer import build_tokenizer
from tests.patience import PATIENCE

CONFIG = get_paper_config()
ASKED = "what color is the circle ?"


@pytest.fixture(scope="module")
def model() -> PruneVidQwen25VL:
    made = PruneVidQwen25VL(build_model(0).eval(), CONFIG, tokenizer=build_tokenizer())
    small = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)
    made.preprocessor.media = MediaReader(small, small)
    return made


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("v") / "scene ü.mp4", render(make_scene(1), 32), fps=4)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("v") / "frames", render(make_scene(2), 10))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p") / "a.png"
    Image.fromarray(render(make_scene(3), 2)[0]).save(path)
    return path


def ask(model: PruneVidQwen25VL, *args: Any, **kwargs: Any) -> Any:
    return model.generate(*args, **{"max_new_tokens": 2, **kwargs})


def test_loading_is_quiet_under_a_tested_release_unless_info_is_asked_for(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers_logging.enable_progress_bar()  # whatever an earlier test left

    def bars(level: int, tested: tuple[str, ...]) -> bool:
        monkeypatch.setattr(loading, "TESTED", tested)
        with caplog.at_level(level, "prunevid_qwen"):
            loading.load_model(loading.bundled_model(), "cpu", {})
        assert transformers_logging.is_progress_bar_enabled() and not hub.are_progress_bars_disabled()
        return "\r" in capsys.readouterr().err

    this = (transformers.__version__,)
    assert not bars(logging.WARNING, this)
    assert bars(logging.INFO, this) and bars(logging.WARNING, ())


def test_receipt(model: PruneVidQwen25VL, video: Path) -> None:

    result = ask(model, video_path=str(video), question=ASKED)
    stats = result["stats"]
    assert isinstance(result["answer"], str)
    read = stats["input"]["videos"][0]
    assert read["frames"] == len(read["timestamps"]) == 16
    assert read["timestamps"][0] == 0
    assert read["seconds_per_grid"] == pytest.approx(2 * 8 / 16)
    t, h, w = read["grid"]
    assert stats["stage1"]["original_tokens"] == t * h * w == stats["tokens"]["visual"]
    assert 0 <= stats["stage1"]["static_ratio"] <= 1
    one, two, three = stats["stage1"], stats["stage2"], stats["stage3"]
    assert one["applied"] and two["applied"] and three["applied"]
    assert one["reduction_percentage"] == pytest.approx(100 * (1 - one["compressed_tokens"] / one["original_tokens"]))
    assert two["original_tokens"] == one["compressed_tokens"]
    assert two["kept_tokens"] == int(0.4 * two["original_tokens"])
    assert two["achieved_ratio"] == pytest.approx(two["kept_tokens"] / two["original_tokens"])
    text = stats["input"]["prompt_tokens"] - one["original_tokens"]
    assert three["cache_lengths"] == [text + two["kept_tokens"]] * 6
    assert three["reduction_ratio"] == pytest.approx(1 - three["compressed_length"] / three["original_length"])
    assert three["cache_bytes"] / three["cache_bytes_unpruned"] == pytest.approx(1 - three["reduction_ratio"], abs=1e-3)
    assert stats["tokens"]["layer_average"] == pytest.approx(
        (3 * one["compressed_tokens"] + 3 * two["kept_tokens"]) / 6
    )
    assert stats["position_scheme"] == "reference"
    steps = stats["steps"]
    assert [(step["name"], step["where"]) for step in steps] == [("prunevid", "door"), ("prunevid", "layer 2")]
    assert [(step["tokens_in"], step["tokens_out"]) for step in steps] == [
        (one["original_tokens"], one["compressed_tokens"]), (two["original_tokens"], two["kept_tokens"])
    ]  # fmt: skip
    assert steps[0]["seconds"] == stats["seconds"]["merge"]
    assert steps[1]["seconds"] == pytest.approx(stats["seconds"]["select"] + stats["seconds"]["compact"])
    parts = ("read", "vision", "merge", "select", "compact", "prefill", "total")
    assert all(stats["seconds"][part] > 0 for part in parts)
    assert stats["versions"].keys() == {"prunevid_qwen", "transformers", "torch", "python"}
    assert json.loads(json.dumps(stats)) == stats
    assert two["compressed_tokens"] == two["kept_tokens"]


def test_seconds_of_a_token(model: PruneVidQwen25VL, video: Path) -> None:
    seconds = ask(model, video, ASKED, max_new_tokens=5, eos_token_id=None)["stats"]["seconds"]
    assert seconds["decode"] == pytest.approx(4 * seconds["decode_per_token"])  # the first one comes with the prompt


def test_cache_bytes_are_those_of_the_cache(model: PruneVidQwen25VL, video: Path) -> None:
    result = ask(model, video, ASKED, return_dict_in_generate=True, max_new_tokens=1)
    cache = cache_of(result["output"])
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert result["stats"]["stage3"]["cache_bytes"] == held


def test_every_kind_of_source(model: PruneVidQwen25VL, video: Path, other: Path) -> None:
    frames = render(make_scene(2), 10)
    wanted = ask(model, other, ASKED)["stats"]["tokens"]
    for source in (sorted(other.iterdir()), [Image.fromarray(f) for f in frames], list(frames), frames):
        assert ask(model, source, ASKED)["stats"]["tokens"] == wanted
    two = ask(model, [video, other], ASKED)["stats"]["input"]["videos"]
    assert [v["frames"] for v in two] == [16, 10]


def test_images(model: PruneVidQwen25VL, picture: Path) -> None:
    stats = ask(model, images=[picture, Image.open(picture)], question="Compare them.")["stats"]
    assert len(stats["input"]["images"]) == 2
    assert not stats["stage1"]["applied"]
    assert "images pass unmerged" in stats["stage1"]["note"]
    assert stats["stage2"]["applied"] and stats["stage3"]["applied"]
    assert ask(model, images=picture, question=ASKED)["stats"]["tokens"]["visual"] * 2 == stats["tokens"]["visual"]


def test_text_alone(model: PruneVidQwen25VL) -> None:
    stats = ask(model, question="how many objects are there ?")["stats"]
    for stage in ("stage1", "stage2", "stage3"):
        assert not stats[stage]["applied"]
        assert stats[stage]["note"].startswith("nothing to do")
    assert stats["stage3"]["reduction_ratio"] == 0


def test_a_list_of_questions_is_one_batch(model: PruneVidQwen25VL, video: Path, other: Path) -> None:
    questions = [ASKED, "what shape appears first in the video ?"]
    shared = ask(model, video, questions)
    alone = [ask(model, video, question) for question in questions]
    assert [r["answer"] for r in shared] == [r["answer"] for r in alone]
    assert [r["stats"]["tokens"] for r in shared] == [r["stats"]["tokens"] for r in alone]
    each = ask(model, [video, other], questions)
    assert [r["stats"]["input"]["videos"][0]["frames"] for r in each] == [16, 10]
    assert each[1]["answer"] == ask(model, other, questions[1])["answer"]
    both = ask(model, [[video, other], other], questions)
    assert [len(r["stats"]["input"]["videos"]) for r in both] == [2, 1]


def test_messages(model: PruneVidQwen25VL, video: Path, picture: Path) -> None:
    message = {"role": "user", "content": [{"type": "video", "video": str(video)}, {"type": "text", "text": ASKED}]}
    result = ask(model, messages=[message])
    assert result["answer"] == ask(model, video, ASKED)["answer"]
    part = {"type": "video", "path": str(video), "max_frames": 4, "start": 1.0}
    fewer = {"role": "user", "content": [part, {"type": "image", "image": picture}, {"type": "text", "text": ASKED}]}
    stats = ask(model, messages=[{"role": "system", "content": "answer with one word"}, fewer])["stats"]
    assert stats["input"]["videos"][0]["frames"] == 4
    assert stats["input"]["videos"][0]["timestamps"][0] >= 1.0
    assert len(stats["input"]["images"]) == 1
    slow = {"role": "user", "content": [{"type": "video", "video": video, "fps": 1}, {"type": "text", "text": ASKED}]}
    assert ask(model, messages=[slow])["stats"]["input"]["videos"][0]["frames"] == 8  # of 8 seconds
    begun = [message, {"role": "assistant", "content": "the color is"}]
    asked = model.preprocessor.sample(begun, CONFIG)
    assert asked.text.endswith("<|im_start|>assistant\nthe color is")


def test_a_conversation_goes_on(model: PruneVidQwen25VL, video: Path) -> None:
    first = {"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": ASKED}]}
    again = [
        first,
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "how many objects are there ?"},
    ]
    assert (
        ask(model, messages=again)["stats"]["input"]["prompt_tokens"]
        > ask(model, messages=[first])["stats"]["input"]["prompt_tokens"]
    )


def test_generate_arguments_pass_through(model: PruneVidQwen25VL, video: Path) -> None:
    result = ask(
        model, video, ASKED, num_beams=2, num_return_sequences=2, output_scores=True, return_dict_in_generate=True
    )
    assert len(result["answers"]) == 2
    assert result["answers"][0] == result["answer"]
    assert result["output"].sequences.shape[0] == 2
    torch.manual_seed(0)
    ask(model, video, ASKED, do_sample=True, temperature=0.7)
    ask(model, video, ASKED, prompt_lookup_num_tokens=2)
    with pytest.raises(ValueError, match="num_beems"):
        ask(model, video, ASKED, num_beems=2)


def test_the_length_of_an_answer(model: PruneVidQwen25VL, video: Path) -> None:
    """512 tokens, unless transformers' own ways to say it are used."""
    from transformers import GenerationConfig

    prompt = ask(model, video, ASKED)["stats"]["input"]["prompt_tokens"]
    for given, new in (
        ({"generation_config": GenerationConfig(max_new_tokens=3, eos_token_id=None)}, 3),
        ({"max_length": prompt + 4, "eos_token_id": None}, 4),
        ({"max_new_tokens": 5, "eos_token_id": None}, 5),
    ):
        out = model.generate(video, ASKED, return_dict_in_generate=True, **given)["output"]
        assert out.sequences.shape[1] - prompt == new


def test_several_answers_to_each_of_several_questions(model: PruneVidQwen25VL, video: Path, other: Path) -> None:
    """Rows of the batch, sequences and receipts are three countings: each question gets its own of all of them."""
    questions, sources = [ASKED, "what shape appears first in the video ?"], [video, other]
    many = ask(
        model, sources, questions, num_beams=3, num_return_sequences=2, max_new_tokens=4, return_dict_in_generate=True
    )
    for i, (source, question) in enumerate(zip(sources, questions, strict=True)):
        alone = ask(model, source, question, max_new_tokens=4)["stats"]
        texts = model.tokenizer.batch_decode(many[i]["output"].sequences[2 * i : 2 * i + 2], skip_special_tokens=True)
        assert all(text.endswith(answer) for text, answer in zip(texts, many[i]["answers"], strict=True))
        assert len(many[i]["answers"]) == 2
        for part in ("input", "tokens", "stage1", "stage2", "stage3"):
            assert many[i]["stats"][part] == alone[part]


def test_streamer(model: PruneVidQwen25VL, video: Path) -> None:
    from transformers import TextIteratorStreamer

    streamer = TextIteratorStreamer(model.tokenizer, True, timeout=PATIENCE, skip_special_tokens=True)
    answer = ask(model, video, ASKED, streamer=streamer)["answer"]
    assert "".join(streamer).strip() == answer
    with pytest.raises(ConfigError, match="one question"):
        ask(model, video, [ASKED, ASKED], streamer=streamer)
    assert "".join(streamer) == ""  # was told of the end, though no token came
    assert "".join(read_again(model, video, streamer)).strip() == answer


def read_again(model: PruneVidQwen25VL, video: Path, streamer: Any) -> list[str]:
    """The texts of another call on a streamer that was used before."""
    ask(model, video, ASKED, streamer=streamer)
    return list(streamer)


def test_a_streamer_is_told_of_the_end_once_on_every_way_out(
    model: PruneVidQwen25VL, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counts:
        ended = tokens = 0

        def put(self, value: torch.Tensor) -> None:
            self.tokens += 1

        def end(self) -> None:
            self.ended += 1

    def told(error: type[BaseException] | None, call: Any) -> Counts:
        streamer = Counts()
        with pytest.raises(error) if error else nullcontext():
            call(streamer)
        assert streamer.ended == 1
        return streamer

    prepared = model.prepare(video, ASKED)
    told(None, lambda to: ask(model, video, ASKED, streamer=to))
    told(None, lambda to: model.answer(prepared, max_new_tokens=2, streamer=to))
    assert not told(MediaError, lambda to: ask(model, tmp_path / "none.mp4", ASKED, streamer=to)).tokens
    assert not told(ConfigError, lambda to: ask(model, video, streamer=to)).tokens
    for stop in (ValueError, KeyboardInterrupt):
        monkeypatch.setattr(Counts, "put", lambda self, value, stop=stop: throw(stop))
        told(stop, lambda to: ask(model, video, ASKED, streamer=to))
        told(stop, lambda to: model.answer(prepared, max_new_tokens=2, streamer=to))
    monkeypatch.setattr(Counts, "put", lambda self, value: None)
    monkeypatch.setattr("prunevid_qwen.model.check_applied", lambda *given: throw(PruningNotApplied))
    told(PruningNotApplied, lambda to: ask(model, video, ASKED, streamer=to))  # after the stock call ended it


def throw(error: type[BaseException]) -> None:
    raise error()


@pytest.mark.parametrize(("config", "stages"), [(get_baseline_config(), ""), (get_stage1_only_config(), "1")])
def test_stages_off(model: PruneVidQwen25VL, video: Path, config: Any, stages: str) -> None:
    stats = ask(model.with_config(config), video, ASKED)["stats"]
    for number in "123":
        assert stats[f"stage{number}"]["applied"] == stats[f"stage{number}"]["enabled"] == (number in stages)
    assert (stats["tokens"]["after_stage2"] < stats["tokens"]["visual"]) == bool(stages)


def test_receipt_without_stage_3(model: PruneVidQwen25VL, video: Path) -> None:
    stats = ask(model.with_config(CONFIG.replace(enable_cache_compression=False)), video, ASKED)["stats"]
    text = stats["input"]["prompt_tokens"] - stats["stage1"]["original_tokens"]
    early, late = stats["stage1"]["compressed_tokens"], stats["stage2"]["kept_tokens"]
    assert stats["stage3"]["cache_lengths"] == [text + early] * 3 + [text + late] * 3


def test_receipt_of_merged_images(model: PruneVidQwen25VL, picture: Path) -> None:
    stage = ask(model.with_config(CONFIG.replace(merge_images=True)), images=picture, question=ASKED)["stats"]["stage1"]
    assert (stage["applied"], stage["note"]) == (True, None)


def test_receipt_names_the_merger(model: PruneVidQwen25VL, video: Path) -> None:
    stage = ask(model.with_config(CONFIG.replace(merger="pool")), video, ASKED)["stats"]["stage1"]
    assert (stage["merger"], stage["applied"]) == ("pool", True)
    assert stage["compressed_tokens"] == int(stage["original_tokens"] * CONFIG.cluster_ratio)
    off = ask(model.with_config(CONFIG.replace(enable_stage1=False)), video, ASKED)["stats"]["stage1"]
    assert off["merger"] is None


def test_frames_of_few_tokens_are_not_said_to_be_merged(model: PruneVidQwen25VL) -> None:
    """Noise in frames of 3 x 4 tokens: nothing looks alike, and no group is large enough to be clustered."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 84, 112, 3), dtype=np.uint8)
    stats = ask(model.with_config(CONFIG.replace(tau=1.0)), noise, ASKED)["stats"]
    one = stats["stage1"]
    assert (one["original_tokens"], one["compressed_tokens"], one["applied"]) == (96, 96, False)
    assert "min_cluster_tokens" in one["note"] and "14" in one["note"]
    assert stats["stage2"]["applied"] and stats["stage2"]["note"] is None and stats["warnings"] == []


def test_stages_that_keep_everything_say_so(model: PruneVidQwen25VL, video: Path) -> None:
    stats = ask(model.with_config(CONFIG.replace(keep_ratio=1.0, cluster_ratio=1.0, tau=1.0)), video, ASKED)["stats"]
    for stage in ("stage1", "stage2", "stage3"):
        assert stats[stage]["enabled"] and not stats[stage]["applied"] and stats[stage]["note"]
    assert stats["tokens"]["after_stage2"] == stats["tokens"]["visual"]


def test_a_scrolling_recording_looks_alike_and_an_hours_options_are_warned_of(
    model: PruneVidQwen25VL, caplog: pytest.LogCaptureFixture
) -> None:
    """A page of lines that scrolls by half a line a frame for 8 seconds: all of it moves, and always looks alike."""
    stripes = np.where(np.arange(400) % 4 < 2, 30, 235).astype(np.uint8)
    page = np.stack([np.broadcast_to(stripes[2 * i : 2 * i + 112, None, None], (112, 112, 3)) for i in range(16)])
    assert (page[:-1] != page[1:]).all()
    hour = model.with_config(CONFIG.replace(cluster_ratio=0.02))
    stats = ask(hour, page, ASKED)["stats"]
    assert stats["stage1"]["static_ratio"] == 1 and stats["stage1"]["tau"] == CONFIG.tau
    assert stats["tokens"]["after_stage1"] < stats["input"]["videos"][0]["grid"][0] == 8
    assert stats["warnings"] and str(stats["tokens"]["after_stage1"]) in stats["warnings"][0]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [warning for warning in stats["warnings"] if warning not in said] == []
    caplog.clear()
    hour.generate(page, ASKED, max_new_tokens=1, return_stats=False)
    assert stats["warnings"][0] in [record.getMessage() for record in caplog.records], "without a receipt too"


def test_an_answer_that_was_not_pruned_is_no_answer(model: PruneVidQwen25VL, video: Path) -> None:
    off = get_baseline_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunevid_qwen.model.pruned", lambda loaded, _config: pruned(loaded, off))
        with pytest.raises(PruningNotApplied, match="stage 1"):
            model.generate(video, ASKED, max_new_tokens=1)


def test_asked_for_and_not_applied_raises(model: PruneVidQwen25VL, video: Path) -> None:
    inputs = model.preprocessor.batch([model.preprocessor.sample(_message(video), CONFIG)])
    off = get_baseline_config()
    with pruned(model.model, off) as trace:
        model.model.generate(**inputs, max_new_tokens=1)
    check_applied(trace, off)
    with pytest.raises(PruningNotApplied, match="stage 1"):
        check_applied(trace, CONFIG)
    with pytest.raises(PruningNotApplied, match="stage 2"):
        check_applied(trace, CONFIG.replace(enable_stage1=False))
    with pruned(model.model, CONFIG.replace(keep_ratio=1.0)) as trace:
        model.model.generate(**inputs, max_new_tokens=1)
    with pytest.raises(PruningNotApplied, match="45"):
        check_applied(trace, CONFIG)


def _message(video: Path) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": ASKED}]}]


def test_own_code_with_the_context(model: PruneVidQwen25VL, video: Path) -> None:
    inputs = model.preprocessor.batch([model.preprocessor.sample(_message(video), CONFIG)])
    with pruned(model.model, CONFIG) as trace:
        out = model.model.generate(**inputs, max_new_tokens=2)
    answer = model.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert answer == ask(model, video, ASKED)["answer"]
    assert trace.kept[0].numel() == trace.samples[0].after_stage2


def test_loading_from_a_folder(model: PruneVidQwen25VL, video: Path, tmp_path: Path) -> None:
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 3136, "max_pixels": 112 * 112}))
    loaded = PruneVidQwen25VL.from_pretrained(
        str(tmp_path), config=CONFIG, device="cpu", dtype="float32", attn_implementation="eager", local_files_only=True
    )
    stats = ask(loaded, video, ASKED)["stats"]
    assert (stats["dtype"], stats["attn_implementation"], stats["device"]) == ("float32", "eager", "cpu")
    assert loaded.preprocessor.media.video.max_pixels == 112 * 112
    for wrong, meant in (
        ("keep_ratio", r"PruneVidConfig\(keep_ratio="),
        ("attn_implementatoin", "did you mean 'attn_"),
    ):
        with pytest.raises(UnknownOption, match=meant):
            PruneVidQwen25VL(tmp_path, CONFIG, device="cpu", **{wrong: 1})
    mapped = PruneVidQwen25VL(tmp_path, CONFIG, device_map="cpu", dtype=torch.bfloat16)
    assert mapped.model.dtype == torch.bfloat16


WRONG = {
    "no question": ({}, ConfigError, "no question"),
    "blank question": ({"question": "  "}, ConfigError, "no question"),
    "a dict of questions": ({"question": {"What?": 1}}, ConfigError, "no question"),
    "one blank of two": ({"question": ["a", ""]}, ConfigError, "no question"),
    "messages and question": ({"messages": [{"role": "user", "content": "a"}], "question": "a"}, ConfigError, "alone"),
    "no messages": ({"messages": []}, ConfigError, "empty"),
    "seconds beside messages": (
        {"messages": [{"role": "user", "content": "a"}], "start": 1.0}, ConfigError, "own item",
    ),
    "seconds without a video": ({"question": "a", "end": 1.0}, ConfigError, "end.*video_path"),
    "no role": ({"messages": [{"content": "a"}]}, ConfigError, "role and content"),
    "item without source": (
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]}, ConfigError, "has its source",
    ),
    "item with an unknown key": (
        {"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4", "max_frame": 3}]}]},
        ConfigError, "did you mean 'max_frames'",
    ),
    "placeholder in the text": ({"question": "what is <|video_pad|> ?"}, ConfigError, "placeholders"),
    "missing file": ({"video_path": "missing.mp4", "question": "a"}, MediaError, "missing.mp4"),
    "missing image": ({"images": "missing.png", "question": "a"}, MediaError, "missing.png"),
    "no videos": ({"video_path": [], "question": "a"}, ConfigError, "empty list"),
    "frames and videos": ({"video_path": ["a.mp4", "a.png"], "question": "a"}, ConfigError, "mixes"),
    "other number of videos": ({"video_path": ["a.mp4"] * 3, "question": ["a", "b"]}, ConfigError, "3 entries for 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls(model: PruneVidQwen25VL, case: str) -> None:
    given, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        model.generate(**given)


def test_end_before_start(model: PruneVidQwen25VL, video: Path) -> None:
    with pytest.raises(ConfigError, match="end"):
        model.generate(video, ASKED, start=3.0, end=1.0)


def test_wrong_models(tmp_path: Path, model: PruneVidQwen25VL) -> None:
    with pytest.raises(ConfigError, match=r"\./nowhere"):
        PruneVidQwen25VL("./nowhere")
    with pytest.raises(ConfigError, match=r"config\.json"):
        PruneVidQwen25VL(tmp_path)
    with pytest.raises(SetupError, match=r"hf download Qwen/Qwen2\.5-VL-7B-Instruct --local-dir"):
        PruneVidQwen25VL()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UnsupportedError, match="llama"):
        PruneVidQwen25VL(tmp_path)
    with pytest.raises(ConfigError, match="tokenizer"):
        PruneVidQwen25VL(model.model)
    with pytest.raises(ConfigError, match="for loading"):
        PruneVidQwen25VL(model.model, tokenizer=model.tokenizer, dtype="float32")
    with pytest.raises(UnsupportedError, match="Linear"):
        PruneVidQwen25VL(torch.nn.Linear(2, 2), tokenizer=model.tokenizer)
    with pytest.raises(ConfigError, match="device_map"):
        PruneVidQwen25VL("bundled", device="cpu", device_map="auto")
    with pytest.raises(ConfigError, match="PruneVidConfig"):
        PruneVidQwen25VL("bundled", config={"keep_ratio": 0.4})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_asked_for_and_absent(model: PruneVidQwen25VL) -> None:
    with pytest.raises(SetupError, match="GPU"):
        PruneVidQwen25VL(model.model, device="cuda", tokenizer=model.tokenizer)


def test_threads_take_turns(model: PruneVidQwen25VL) -> None:
    from concurrent.futures import ThreadPoolExecutor

    frames = np.stack([render(make_scene(4), 4)[i] for i in range(4)])
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: ask(model, frames, ASKED)["answer"], range(4)))
    assert len(set(answers)) == 1
