"""The second bundled toy, of Qwen3-VL's classes: it is small, it sees, it is pruned, and it says what it is."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from prunevid_qwen import PrunedVLM, PruneVidConfig, get_baseline_config, get_config, pruned
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.bundled import bundled_model
from prunevid_qwen.cli import main
from prunevid_qwen.evaluation.shapes.videos import is_correct
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, Question, make_questions, make_scene, render
from research.bundled_accuracy import package_answers
from research.bundled_model.tokenizer import SPECIAL_TOKENS, WORDS
from research.bundled_model.tokenizer import VOCABULARY as FIRST_VOCABULARY
from research.bundled_qwen3vl.tokenizer import TIME_WORDS, VOCABULARY
from tests.bundled_qwen3vl_answers import answer_questions
from tests.masking import masked_logits, rows_of, text_inputs
from tests.tolerances import LOGITS, close

NAME = "bundled-qwen3vl"
FOLDER = Path(bundled_model(NAME))
CLIPS = Path(bundled_model()).parent / "clips"
CLIP, ASKED = CLIPS / "late_square.mp4", "What color is the last object?"
SEEDS = range(FIRST_HELD_OUT_SEED + 100, FIRST_HELD_OUT_SEED + 116)
OUT: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}


@cache
def toy(attention: str = "sdpa") -> PrunedVLM:
    return PrunedVLM(NAME, get_baseline_config(), device="cpu", attn_implementation=attention)


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


def inputs_of(model: PrunedVLM, *items: tuple[str, Any]) -> dict[str, Any]:
    """The prompt as the package writes it, with all pixels."""
    messages = [{"role": "user", "content": [{"type": kind, kind: shown} for kind, shown in items]}]
    return dict(model.frontend.batch([model.frontend.sample(messages, model.config)]))


# ---- the folder


def test_it_is_small_and_whole() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "video_preprocessor_config.json",
    }
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 4 * 2**20


def test_it_is_of_qwen3_vls_classes() -> None:
    assert type(toy().model) is Qwen3VLForConditionalGeneration
    assert all(parameter.dtype == torch.float32 for parameter in toy().model.parameters())
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["model_type"] == "qwen3_vl" and config["vision_config"]["deepstack_visual_indexes"] == [1, 2]
    text = config["text_config"]
    assert "rope_parameters" not in text  # as releases before it wrote them, which later ones read
    assert text["rope_scaling"]["mrope_interleaved"] is True and text["rope_scaling"]["mrope_section"] == [6, 5, 5]
    assert text["num_hidden_layers"] == 8
    settings = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_the_settings_are_a_published_checkpoints_with_smaller_frames() -> None:
    video, image = (
        json.loads((FOLDER / name).read_text())
        for name in ("video_preprocessor_config.json", "preprocessor_config.json")
    )
    assert video["video_processor_type"] == "Qwen3VLVideoProcessor"
    assert image["image_processor_type"] == "Qwen2VLImageProcessorFast"
    assert {each["processor_class"] for each in (video, image)} == {"Qwen3VLProcessor"}
    reader = MediaReader.from_pretrained(str(FOLDER))
    assert reader.video.factor == reader.image.factor == 28
    assert reader.image.image_mean == reader.video.image_std == (0.5, 0.5, 0.5)
    for count in (2, 16, 32, 64):
        assert reader.video.for_video(count, 448, 448).fixed == (112, 112)
        # what a caller may ask for, as the accuracy benchmark does
    assert reader.video.for_video(16, 336, 336, max_pixels=168 * 168).fixed == (168, 168)
    assert reader.image.fit(448, 448) == (112, 112)


# ---- words


def test_words_survive_the_tokenizer() -> None:
    text = " ".join((*WORDS, *TIME_WORDS))
    ids = tokenizer()(text)["input_ids"]
    assert ids == [VOCABULARY[word] for word in (*WORDS, *TIME_WORDS)]
    assert tokenizer().decode(ids, clean_up_tokenization_spaces=False) == text
    assert tokenizer()("What COLOR, elephant")["input_ids"][0] == VOCABULARY["what"]
    assert VOCABULARY["<|unk|>"] in tokenizer()("elephant")["input_ids"]
    assert tokenizer().padding_side == "left" and tokenizer().pad_token == "<|endoftext|>"
    assert tokenizer().eos_token == "<|im_end|>"
    assert FIRST_VOCABULARY.items() <= VOCABULARY.items(), "a word of both toys has one number"


def test_special_tokens_are_single_and_are_skipped() -> None:
    for token in SPECIAL_TOKENS:
        assert tokenizer()(token)["input_ids"] == [VOCABULARY[token]]
        assert tokenizer().decode([VOCABULARY["red"], VOCABULARY[token]], skip_special_tokens=True) == "red"


@pytest.mark.parametrize("seconds", [0.0, 0.2, 9.9, 13.5, 128.7, 3600.1])
def test_a_time_is_read_sign_by_sign(seconds: float) -> None:
    written = f"<{seconds:.1f} seconds>"
    ids = tokenizer()(f"{written}<|vision_start|>")["input_ids"]
    words = ("<", *f"{seconds:.1f}", "seconds", ">", "<|vision_start|>")
    assert ids == [VOCABULARY[word] for word in words]


def test_the_chat_template_writes_what_qwen3_vl_reads() -> None:
    content = [{"type": "video"}, {"type": "text", "text": ASKED}]
    messages = [{"role": "user", "content": content}]
    asked = f"<|vision_start|><|video_pad|><|vision_end|>{ASKED}<|im_end|>\n"
    text = tokenizer().apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == f"<|im_start|>user\n{asked}<|im_start|>assistant\n", "no system message of its own"
    content[0] = {"type": "image"}
    system = {"role": "system", "content": "Be brief."}
    text = tokenizer().apply_chat_template([system, *messages], tokenize=False)
    asked = asked.replace("video_pad", "image_pad")
    assert text == f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{asked}"


def test_the_times_of_a_real_file_are_words_it_knows() -> None:
    ids = inputs_of(toy(), ("video", str(CLIP)), ("text", ASKED))["input_ids"][0]
    assert VOCABULARY["<|unk|>"] not in ids and int((ids == VOCABULARY["seconds"]).sum()) == 8


# ---- what it sees


def share_right(blank: bool, multiple_choice: bool, outer: bool = True, seeds: range = SEEDS) -> float:
    right: list[bool] = []
    for seed in seeds:
        scene = make_scene(seed)
        frames = render(scene, 16)
        questions = make_questions(scene, seed, multiple_choice)
        shown = np.full_like(frames, 128) if blank else frames
        given = answer_questions(toy().model, shown, questions, outer=outer)
        right += [answer == question.answer for answer, question in zip(given, questions, strict=True)]
    return float(np.mean(right))


@pytest.mark.parametrize("multiple_choice", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_it_answers_what_it_sees_and_not_what_it_does_not(multiple_choice: bool) -> None:
    assert share_right(blank=False, multiple_choice=multiple_choice) >= 0.9
    assert share_right(blank=True, multiple_choice=multiple_choice) <= 0.5


def test_it_answers_without_brackets_around_all_frames() -> None:
    """As transformers wrote before 5.10."""
    assert share_right(blank=False, multiple_choice=False, outer=False, seeds=SEEDS[:8]) >= 0.9


def test_it_answers_about_a_picture() -> None:
    right: list[bool] = []
    for seed in SEEDS:
        scene = make_scene(seed, brief_share=0, late_share=0)
        asked = [q for q in make_questions(scene, seed) if q.type in ("color", "shape", "count", "exists")]
        frames = render(scene, np.full(2, 0.5))
        given = answer_questions(toy().model, frames, asked, seconds=None)
        right += [answer == question.answer for answer, question in zip(given, asked, strict=True)]
    assert np.mean(right) >= 0.9


def test_the_clips_are_answered_through_the_reader() -> None:
    ask, right = package_answers(toy()), []
    for entry in json.loads((CLIPS / "clips.json").read_text()):
        pairs = [(item["question"], item["answer"]) for item in entry["questions"]]
        questions = [Question("", text, answer, answer, (), ()) for text, answer in pairs]
        given = ask(CLIPS / entry["file"], questions)
        right += [is_correct(one, q.answer) for one, q in zip(given, questions, strict=True)]
    assert np.mean(right) >= 0.9


# ---- pruning


@pytest.mark.parametrize("shown", ["video", "image"])
def test_without_pruning_an_answer_is_the_stock_models(shown: str) -> None:
    """Bit for bit, from files; the stock model is given all pixels at once."""
    frame = np.ascontiguousarray(render(make_scene(SEEDS[0]), 2)[0])
    item = {"video": str(CLIP), "image": frame}[shown]
    inputs = inputs_of(toy(), (shown, item), ("text", ASKED))
    stock = toy().model.generate(**inputs, max_new_tokens=3, **OUT)
    kept = PruneVidConfig(
        tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, min_cluster_tokens=0, position_scheme="hf", pruning_layer=1
    )
    messages = [{"role": "user", "content": [{"type": shown, shown: item}, {"type": "text", "text": ASKED}]}]
    for config in (get_baseline_config(), kept):
        model = toy().with_config(config)
        ours = model.generate(messages=messages, max_new_tokens=3, **OUT)["output"]
        assert torch.equal(ours.sequences, stock.sequences)
        assert all(torch.equal(one, two) for one, two in zip(ours.logits, stock.logits, strict=True))


@pytest.mark.parametrize("preset", ["recommended", "paper"])
def test_pruning_equals_masking(preset: str) -> None:
    model, config = toy("eager").model, get_config(preset)
    inputs = inputs_of(toy("eager"), ("video", str(CLIP)), ("text", ASKED))
    with pruned(model, config) as trace:
        out = model.generate(**inputs, max_new_tokens=3, **OUT)
    assert trace.samples[0].after_stage2 < trace.samples[0].tokens
    embeds, positions = text_inputs(model, dict(inputs))
    assert embeds.shape[-1] == 3 * 128, "embeddings and two levels"
    if config.position_scheme == "reference":
        positions = rows_of(adapter_for(model).reference_positions(**inputs)[0], 1)
    [wanted] = masked_logits(model, embeds, positions, inputs, out.sequences, trace, config.enable_cache_compression)
    close(torch.stack(out.logits, 1)[0], wanted, LOGITS)


def test_a_receipt_says_what_happened_to_its_tokens() -> None:
    model = toy().with_config(get_config("recommended"))
    stats = model.generate(str(CLIP), ASKED, max_new_tokens=2, return_stats=True)["stats"]
    assert stats["tokens"]["visual"] == 128 > stats["tokens"]["after_stage2"] > 0
    [video] = stats["input"]["videos"]
    assert video["grid"] == [8, 4, 4] and len(video["timestamps"]) == 16


def test_a_batch_is_answered_as_its_members() -> None:
    clips, asked = [str(CLIP), str(CLIPS / "three_arrive.webm")], [ASKED, "How many objects are there?"]
    model = toy().with_config(get_config("recommended"))
    both = model.generate(clips, asked, max_new_tokens=2, return_stats=True)
    for together, clip, question in zip(both, clips, asked, strict=True):
        alone = model.generate(clip, question, max_new_tokens=2, return_stats=True)
        assert together["answer"] == alone["answer"]
        assert together["stats"]["tokens"] == alone["stats"]["tokens"]


def test_a_command_takes_it_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model_path", NAME, "--max_new_tokens", "2", "--device", "cpu", "--json", "--config", "baseline"]
    assert main(["demo", *words]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["answer"] == told["expected_answer"] and NAME in printed.err


def test_a_predictor_of_the_first_toy_is_refused() -> None:
    with pytest.raises(ValueError, match="96"):
        toy().with_config(get_config("glimpse"))


# ---- the card


def test_the_card_says_what_it_is() -> None:
    card = (FOLDER / "README.md").read_text()
    lines = [line for line in card.splitlines() if "Qwen" in line]
    assert all("Qwen3-VL" in line or "Qwen3VL" in line for line in lines)  # the architecture's name, nothing else's
    title = next(line for line in card.splitlines() if line[:2] == "# ")
    assert "qwen" not in title.lower()
    for needed in ("first toy", "from scratch", "distilled", "synthetic", "Apache-2.0", "25 %"):
        assert needed in card
    words = card[card.index("## Words it knows") : card.index("## How it was made")]
    assert set(WORDS) | set(TIME_WORDS) <= {each.strip("`") for each in words.split()}
    assert f"{sum(p.numel() for p in toy().model.parameters()) / 1e6:.1f} million parameters" in card
