"""The bundled model: it loads, it is small, it sees, and it says what it is."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

import prunevid_qwen
from prunevid_qwen import PruneVidQwen25VL, get_baseline_config
from prunevid_qwen.evaluation.shapes.videos import is_correct
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, Question, make_questions, make_scene, render
from research.bundled_accuracy import package_answers
from research.bundled_model.tokenizer import SPECIAL_TOKENS, VOCABULARY, WORDS
from tests.bundled_answers import answer_questions

BUNDLED = Path(prunevid_qwen.__file__).parent / "bundled"
FOLDER, CLIPS = BUNDLED / "model", BUNDLED / "clips"
SEEDS = range(FIRST_HELD_OUT_SEED + 100, FIRST_HELD_OUT_SEED + 116)


@cache
def bundled_model():
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()


@cache
def bundled_tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def test_it_is_small_and_whole():
    files = {file.name for file in FOLDER.iterdir()}
    assert files == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8 * 2**20
    assert sum(file.stat().st_size for file in CLIPS.iterdir()) <= 600 * 2**10


def test_its_config_loads_in_every_supported_version():
    config = json.loads((FOLDER / "config.json").read_text())
    assert "rope_parameters" not in config["text_config"]  # written by 5.23, unreadable before
    assert config["text_config"]["rope_scaling"]["mrope_section"] == [4, 6, 6]
    assert config["text_config"]["num_hidden_layers"] == 8
    settings = json.loads((FOLDER / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_words_survive_the_tokenizer():
    tokenizer = bundled_tokenizer()
    text = " ".join(WORDS)
    ids = tokenizer(text)["input_ids"]
    assert ids == [VOCABULARY[word] for word in WORDS]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert tokenizer("What COLOR, elephant")["input_ids"][0] == VOCABULARY["what"]
    assert VOCABULARY["<|unk|>"] in tokenizer("elephant")["input_ids"]
    assert tokenizer.padding_side == "left" and tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.eos_token == "<|im_end|>"


def test_special_tokens_are_single_and_are_skipped():
    tokenizer = bundled_tokenizer()
    for token in SPECIAL_TOKENS:
        assert tokenizer(token)["input_ids"] == [VOCABULARY[token]]
        assert tokenizer.decode([VOCABULARY["red"], VOCABULARY[token]], skip_special_tokens=True) == "red"


def test_the_chat_template_writes_what_qwen_reads():
    content = [{"type": "video"}, {"type": "text", "text": "What color is the ring?"}]
    messages = [{"role": "user", "content": content}]
    text = bundled_tokenizer().apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>What color is the ring?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    content[0] = {"type": "image"}
    system = {"role": "system", "content": "Be brief."}
    text = bundled_tokenizer().apply_chat_template([system, *messages], tokenize=False)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What color is the ring?<|im_end|>\n"
    )


def share_right(blank: bool, multiple_choice: bool) -> float:
    right: list[bool] = []
    for seed in SEEDS:
        scene = make_scene(seed)
        frames = render(scene, 16)
        questions = make_questions(scene, seed, multiple_choice)
        given = answer_questions(bundled_model(), np.full_like(frames, 128) if blank else frames, questions)
        right += [answer == question.answer for answer, question in zip(given, questions, strict=True)]
    return float(np.mean(right))


@pytest.mark.parametrize("multiple_choice", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_it_answers_what_it_sees_and_not_what_it_does_not(multiple_choice):
    assert share_right(blank=False, multiple_choice=multiple_choice) >= 0.9
    assert share_right(blank=True, multiple_choice=multiple_choice) <= 0.5


def test_it_answers_about_a_picture():
    right: list[bool] = []
    for seed in SEEDS:
        scene = make_scene(seed, brief_share=0, late_share=0)
        asked = [q for q in make_questions(scene, seed) if q.type in ("color", "shape", "count", "exists")]
        frames = render(scene, np.full(2, 0.5))
        given = answer_questions(bundled_model(), frames, asked, seconds=0.0)
        right += [answer == question.answer for answer, question in zip(given, asked, strict=True)]
    assert np.mean(right) >= 0.9


def test_the_clips_are_answered_through_the_reader():
    ask = package_answers(PruneVidQwen25VL("bundled", get_baseline_config(), device="cpu"))
    entries = json.loads((CLIPS / "clips.json").read_text())
    assert {Path(entry["file"]).suffix for entry in entries} == {".mp4", ".webm", ".gif"}
    assert {file.name for file in CLIPS.iterdir()} == {"clips.json", *(entry["file"] for entry in entries)}
    for entry in entries:
        pairs = [(item["question"], item["answer"]) for item in entry["questions"]]
        questions = [Question("", text, answer, answer, (), ()) for text, answer in pairs]
        given = ask(CLIPS / entry["file"], questions)
        assert [is_correct(one, q.answer) for one, q in zip(given, questions, strict=True)] == [True] * len(questions)


def test_the_card_says_what_it_is():
    card = (FOLDER / "README.md").read_text()
    lines = [line for line in card.splitlines() if "Qwen" in line]
    assert all(
        "Qwen2.5-VL" in line or "Qwen2_5_VL" in line for line in lines
    )  # the architecture's name, nothing else's
    assert "name:" not in card.lower() or "qwen" not in card.lower().split("name:")[1].splitlines()[0]
    assert (
        "qwen" not in card.splitlines()[next(i for i, line in enumerate(card.splitlines()) if line[:2] == "# ")].lower()
    )
    for needed in ("from scratch", "synthetic", "Apache-2.0", "30 %"):
        assert needed in card
