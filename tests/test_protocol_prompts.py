"""Every prompt to the letter, with questions that would break a format string."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets import names
from prunevid_qwen.evaluation.datasets.record import Record, Subtitle
from prunevid_qwen.evaluation.protocol import prompts as prompts_module
from prunevid_qwen.evaluation.protocol import protocol as protocol_module
from prunevid_qwen.evaluation.protocol.prompts import prompt_of, prompts, subtitles_at
from prunevid_qwen.evaluation.protocol.protocol import presets

RECORD = Record("1", (), "What {x} is\n100 % 'it'?", ("a cat", "哪里", "has (B)"), "A", {"task": "t"})
CAREFULLY = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)
SELECT = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter "
    "(A, B, C, or D) of the correct option."
)
BOTH = SELECT.replace("the video.", "the video and the subtitles.")
Q = "What {x} is\n100 % 'it'?"
BRACKETS, DOTS = "(A) a cat\n(B) 哪里\n(C) has (B)", "A. a cat\nB. 哪里\nC. has (B)"
LETTER = "Answer with the option's letter from the given choices directly."
TEXTS = {
    ("videochat2", "mvbench"): (
        CAREFULLY + "\n", f"Question: {Q}\nOptions:\n{BRACKETS}\nOnly give the best option.", "Best option:("
    ),
    ("mlvu", "mlvu"): (
        "Carefully watch this video and pay attention to every detail. Based on your observations, select the best "
        "option that accurately addresses the question.",
        f"Question: {Q}\nOptions:\n{BRACKETS}\nOnly give the best option.",
        "Best Option: (",
    ),
    ("lmms", "mvbench"): (None, f"Question:{Q}\nOption:\n{BRACKETS}\nOnly give the best option.\n", ""),
    ("lmms", "videomme"): (None, f"{BOTH}\n{Q}\n{DOTS}\n\n{LETTER}", ""),
    ("lmms", "egoschema"): (None, f"{Q}\n{DOTS}\n{LETTER}", ""),
    ("lmms", "longvideobench"): (None, f"{Q}\n{DOTS}\n{LETTER}\n", ""),
    ("videomme_official", "videomme"): (None, f"{SELECT}\n{Q}\n{DOTS}\nThe best answer is:", ""),
    ("qwen", "videomme"): (None, f"{SELECT}\nQuestion: {Q}\n{DOTS}\nThe best answer is:", ""),
    ("letter_subtitles", "longvideobench"): (None, f"{Q}\n{DOTS}\n{LETTER}", ""),
    ("lmms", "nextqa"): (None, f"{Q}\n{DOTS}", ""),
    ("lmms", "tempcompass"): (None, f"{Q}\n{DOTS}\nPlease directly give the best option:", ""),
    ("letter", "vstar"): (None, f"{Q}\n{DOTS}\n{LETTER}", ""),
}  # fmt: skip
SUBTITLES = {("lmms_subtitles", "videomme"), ("letter_subtitles", "videomme")}
"""Tested with subtitles."""


@pytest.mark.parametrize(("name", "dataset"), TEXTS)
def test_the_text_is_the_harnesses(name: str, dataset: str) -> None:
    prompt = prompt_of(name, dataset)
    assert (prompt.system, prompt.write(RECORD), prompt.prefill) == TEXTS[name, dataset]


def test_every_prompt_is_tested_here() -> None:
    assert {prompt.name for prompt in prompts()} == {name for name, _ in TEXTS} | {"lmms_subtitles"}
    keys = [(prompt.name, dataset) for prompt in prompts() for dataset in prompt.datasets]
    assert len(keys) == len(set(keys)), "a prompt of one name stands twice for a benchmark"
    missing = set(keys) - {("videochat2", "egoschema"), *TEXTS, *SUBTITLES}
    assert not missing, "write what the harness shows, to the letter, into TEXTS"
    assert all(prompt.source for prompt in prompts()) and all(prompt_of("letter", name) for name in names())


@pytest.mark.parametrize(
    ("name", "dataset"), [("videomme_official", "videomme"), ("letter_subtitles", "longvideobench")]
)
def test_subtitles_official_and_ours(name: str, dataset: str) -> None:
    prompt = prompt_of(name, dataset)
    said = "This video's subtitles are listed below:\nHello.\nBye.\n"
    assert prompt.write(RECORD, ["Hello.", "Bye."]) == said + prompt.write(RECORD)
    assert prompt.write(RECORD, []) == prompt.write(RECORD)  # without any, the header is dropped


def test_subtitles_lmms() -> None:
    prompt = prompt_of("lmms_subtitles", "videomme")
    rest = f"{BOTH}\n{Q}\n{DOTS}\nThe best answer is:"
    lead = "This video's subtitles are listed below: \n"
    assert prompt.write(RECORD, ["Hello.", "Bye."]) == f"{lead}Hello.\nBye.\n{rest}"
    assert prompt.write(RECORD, []) == f"{lead}No subtitles available\n{rest}"


def test_subtitles_for_a_prompt_without_are_refused() -> None:
    with pytest.raises(ConfigError, match="'lmms' shows no subtitles"):
        prompt_of("lmms", "videomme").write(RECORD, ["Hello."])


def test_subtitles_at_the_moments_of_the_frames() -> None:
    cues = [Subtitle(5, 6, "late"), Subtitle(0, 2, "one"), Subtitle(1, 3, "two"), Subtitle(3, 4, "never"),
            Subtitle(2, 2, "empty")]  # fmt: skip
    assert subtitles_at(cues, [0.0, 0.5, 2.0, 5.0]) == ("late", "one", "two")
    assert subtitles_at(cues, [2.0]) == ("two",)  # an end is not in it, a start is
    assert subtitles_at(cues, []) == () == subtitles_at([], [1.0])


def test_an_open_question_is_the_question_alone() -> None:
    assert prompt_of("letter", "vstar").write(replace(RECORD, options=(), answer="red")) == Q


def test_messages() -> None:
    video = {"type": "video", "video": "a.mp4", "start": 1.5}
    first, second, third = prompt_of("videochat2", "mvbench").messages([video], RECORD)
    assert first == {"role": "system", "content": CAREFULLY + "\n"}
    assert second["role"] == "user" and second["content"][0] == video and second["content"][1]["type"] == "text"
    assert third == {"role": "assistant", "content": "Best option:("}
    assert [message["role"] for message in prompt_of("lmms", "mvbench").messages([video], RECORD)] == ["user"]


def test_an_unknown_prompt_or_data_set_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"mlvu can be asked by prompt mlvu, letter; got 'lmms' .*mvbench, videomme"):
        prompt_of("lmms", "mlvu")
    with pytest.raises(ConfigError, match="did you mean 'longvideobench'"):
        prompt_of("letter", "longvideobnch")


@pytest.mark.parametrize(
    ("file", "now", "then", "said"),
    [
        ("prompts", "[mvbench, egoschema]", "[mvbnch]", ["'mvbnch'", "'mvbench'"]),
        ("prompts", 'prefill: "Best option:("', 'prefil: "x"', ["'prefil'", "'prefill'"]),
        ("prompts", 'options_lead: "\\n"', "options_lead: 3", ["a text", "3"]),
        ("presets", "frames: 16", "frames: 15.5", ["frames", "15.5"]),
        ("presets", "sampler: mvbench_mid", "sampler: mid", ["sampler", "'mid'"]),
        ("presets", "seconds_per_grid: one", "seconds_a_grid: one", ["'seconds_a_grid'", "'seconds_per_grid'"]),
    ],
)
def test_a_wrong_line_of_prompts_or_presets_is_named(
    file: str, now: str, then: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((prompts_module, "prompts.yaml"), (protocol_module, "presets.yaml")):
        text = Path(module.__file__ or "").with_name(name).read_text(encoding="utf-8")
        assert now in text or not name.startswith(file)
        (tmp_path / name).write_text(text.replace(now, then), encoding="utf-8")
        monkeypatch.setattr(module, "__file__", str(tmp_path / "module.py"))
    for known in (prompts, protocol_module._presets):
        known.cache_clear()
    try:
        with pytest.raises(ConfigError) as error:
            presets()
    finally:
        for known in (prompts, protocol_module._presets):
            known.cache_clear()
    assert re.match(rf"{tmp_path / file}\.yaml:\d+: ", str(error.value)), str(error.value)
    assert all(each in str(error.value) for each in said), str(error.value)
