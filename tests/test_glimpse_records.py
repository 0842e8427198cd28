"""Pictures with boxes: both layouts with their quirks, samples, memory, and the checker that finds what is wrong."""

from __future__ import annotations

import gc
import json
import tracemalloc
import weakref

import numpy as np
import pytest
from PIL import Image

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.loading import bundled_model
from prunevid_qwen.training.glimpse import json_records
from prunevid_qwen.training.glimpse.data import DataSpec, open_data
from prunevid_qwen.training.glimpse.json_records import JsonRecords
from prunevid_qwen.training.glimpse.records import Chosen
from prunevid_qwen.training.glimpse.records_check import check_data

GOOD = {
    "question": "What color is the cup?",
    "answer": "red",
    "image": "a.png",
    "width": 112,
    "height": 56,
    "bboxs": [[28, 0, 55, 27], [84, 28, 112, 56]],
    "dataset": "gqa",
    "split": "train",
}
TALK = [
    {"from": "human", "value": "<image>\nWhat is it? Please provide the bounding box coordinate of the region."},
    {"from": "gpt", "value": "[0.250, 0.250, 0.500, 0.500]"},
    {"from": "human", "value": "<image>"},
    {"from": "gpt", "value": "a cup"},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "gqa").mkdir()
    Image.new("RGB", (112, 56), "red").save(tmp_path / "gqa" / "a.png")
    Image.new("RGB", (112, 56), "blue").save(tmp_path / "b.png")
    return tmp_path


def lines(folder, *records, name="data.jsonl"):
    text = "\n".join(record if isinstance(record, str) else json.dumps(record) for record in records)
    (folder / name).write_text(text + "\n", encoding="utf-8")
    return str(folder / name)


def opened(folder, *records, **options):
    return open_data(DataSpec(options.pop("kind", "visual_cot"), lines(folder, *records), str(folder), **options))


# ---- layouts


def test_a_visual_cot_record_is_read(folder):
    (record,) = opened(folder, GOOD, prompt="{question} One word.")
    assert record.id == "data:1" and record.source == str(folder / "gqa" / "a.png")
    assert (record.question, record.answer) == ("What color is the cup? One word.", "red")
    assert record.boxes == ((0.25, 0.0, 55 / 112, 27 / 56), (0.75, 0.5, 1.0, 1.0))
    assert record.mask([(1, 2, 4)]).tolist() == [False, True, False, False, False, False, False, True]


def test_quirks_of_visual_cot(folder):
    bare = {k: v for k, v in GOOD.items() if k not in ("width", "height", "bboxs", "dataset")}
    data = opened(
        folder,
        {**bare, "image": "b.png", "bbox": [28, 0, 56, 28], "answer": 3, "question_id": 7},
        {**GOOD, "dataset": "elsewhere", "image": "b.png", "id": "mine"},
    )
    first, second = data
    assert first.boxes == ((0.25, 0.0, 0.5, 0.5),)  # the size came from the picture, one box had no list around it
    assert (first.answer, first.id) == ("3", "train/7")
    assert second.source == str(folder / "b.png") and second.id == "mine"


@pytest.mark.parametrize(
    ("boxes_from", "box_type", "box"),
    [
        ("entry", "pixels", (0.25, 0.0, 0.5, 0.5)),
        ("field", "normalised", (0.0, 0.0, 0.1, 0.1)),
        ("turn", "square", (0.25, 0.0, 0.5, 0.5)),  # 28 rows of padding above 56
        ("turn", "normalised", (0.25, 0.25, 0.5, 0.5)),
    ],
)
def test_conversations_say_where_their_boxes_are(folder, boxes_from, box_type, box):
    talk = {
        "id": 9,
        "image": ["gqa/a.png", "gqa/a.png###[28, 0, 56, 28]"],
        "boxes": [[0, 0, 0.1, 0.1]],
        "conversations": TALK,
    }
    (record,) = opened(folder, talk, kind="llava", boxes_from=boxes_from, box_type=box_type)
    assert record.boxes == (box,)
    assert (record.id, record.question, record.answer) == ("9", "What is it?", "a cup")
    assert record.source == str(folder / "gqa" / "a.png")


def test_a_conversation_of_several_questions_is_asked_its_first(folder):
    turns = [("human", "What is it?\n<image>"), ("gpt", "a cup"), ("human", "Which color?"), ("gpt", "red")]
    talk = {"image": "b.png", "bboxs": [[0, 0, 9, 9]], "conversations": [{"from": a, "value": b} for a, b in turns]}
    (record,) = opened(folder, talk, kind="llava", boxes_from="field")
    assert (record.question, record.answer) == ("What is it?", "a cup")


def test_an_answer_may_be_a_box(folder):
    talk = {"image": "b.png", "bboxs": [[0, 0, 9, 9]], "conversations": [TALK[0], TALK[1]]}
    (record,) = opened(folder, talk, kind="llava", boxes_from="field")
    assert record.answer == "[0.250, 0.250, 0.500, 0.500]"
    with pytest.raises(MediaError, match="no answer"):
        opened(folder, talk, kind="llava", boxes_from="turn", box_type="square")[0]


def test_the_preprocessor_takes_a_records_messages(folder):
    preprocessor = Preprocessor.from_pretrained(bundled_model(), "qwen2_5_vl", local_files_only=True)
    (record,) = opened(folder, GOOD)
    sample = preprocessor.sample(record.messages(preprocessor.media), PruneVidConfig())
    t, h, w = sample.media[0].grid[0].tolist()
    assert "What color is the cup?" in sample.text
    assert record.mask([(t, h // 2, w // 2)]).sum() == 2


# ---- files


def test_a_list_and_lines_hold_the_same_records(folder, monkeypatch):
    tricky = [{"n": n, "text": 'a "quoted\\" ] [ } { é\\', "deep": [[{"x": []}], "]"]} for n in range(40)]
    path = lines(folder, "", *tricky, "", name="l.jsonl")
    from_lines = list(JsonRecords(path))
    assert from_lines == tricky
    for piece in (1, 7, 64, 1 << 20):
        monkeypatch.setattr(json_records, "_PIECE", piece)
        for number, text in enumerate((json.dumps(tricky), json.dumps(tricky, indent=2, ensure_ascii=False))):
            listed = folder / f"{number}.json"
            listed.write_text("\ufeff \n" * number + text, encoding="utf-8")
            assert list(JsonRecords(listed)) == tricky


def test_windows_line_ends_and_no_last_one(folder):
    (folder / "crlf.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    records = JsonRecords(folder / "crlf.jsonl")
    assert list(records) == [{"a": 1}, {"a": 2}] and [records.number(k) for k in range(2)] == [1, 2]


def test_a_sample_is_a_set_in_file_order_and_the_seed_says_which(folder):
    path = lines(folder, *({"n": n} for n in range(200)))
    drawn = [record["n"] for record in JsonRecords(path, 50, seed=3)]
    assert drawn == sorted(set(drawn)) and len(drawn) == 50
    assert drawn == [record["n"] for record in JsonRecords(path, 50, seed=3)]
    assert drawn != [record["n"] for record in JsonRecords(path, 50, seed=4)]
    records = JsonRecords(path, 50, seed=3)
    assert [records.number(k) for k in range(50)] == [n + 1 for n in drawn]
    with pytest.raises(ConfigError, match="holds 200"):
        JsonRecords(path, 201)
    with pytest.raises(IndexError):
        records[-1]


@pytest.mark.parametrize("text", ["", "[]", " \n ", '[{"a": 1}', '[{"a": "1', '[{"a": 1}, {'])
def test_a_file_without_records_or_cut_off_is_refused(folder, text):
    (folder / "bad.json").write_text(text)
    with pytest.raises(MediaError, match=r"no record|cut off"):
        JsonRecords(folder / "bad.json")
    with pytest.raises(MediaError, match="cannot be read"):
        JsonRecords(folder / "none.json")


@pytest.mark.nightly
def test_nothing_is_kept_of_50000_records(folder):
    path = lines(folder, *(json.dumps({**GOOD, "question_id": n}) for n in range(50_000)))
    data = open_data(DataSpec("visual_cot", path, str(folder)))
    alive = [weakref.ref(data[index]) for index in range(0, 50_000, 500)]
    gc.collect()
    assert not any(ref() for ref in alive)
    tracemalloc.start()
    data = open_data(DataSpec("visual_cot", path, str(folder)))
    for index in range(0, 50_000, 10):
        data[index]
    gc.collect()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 24 * 50_000 + 200_000  # the file itself has 11 MB
    assert peak < 100 * 50_000


# ---- checker


def test_the_checker_lists_each_flaw_once_with_its_kind(folder):
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:60])
    turned = Image.new("RGB", (112, 56))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    bad = {
        "missing_image": {**GOOD, "image": "none.png"},
        "unreadable_image": {**GOOD, "image": "broken.png"},
        "wrong_size": {**GOOD, "image": "turned.jpg"},
        "no_box": {**GOOD, "bboxs": []},
        "box_form": {**GOOD, "bboxs": [[1, 2, "3", 4]]},
        "box_unit": {**GOOD, "bboxs": [[0.1, 0.1, 0.5, 0.5]]},
        "box_outside": {**GOOD, "bboxs": [[28, 0, 150, 27]]},
        "box_swapped": {**GOOD, "bboxs": [[55, 0, 28, 27], [28, 27, 55, 0]]},
        "box_empty": {**GOOD, "bboxs": [[28, 10, 55, 10]]},
        "empty_question": {**GOOD, "question": "  "},
        "empty_answer": {**GOOD, "answer": None},
        "not_a_record": '{"question": ',
        "duplicate_id": {**GOOD, "id": "one"},
    }
    told = []
    data = opened(folder, {**GOOD, "id": "one"}, *bad.values(), GOOD, GOOD)
    report = check_data(data, progress=lambda done, total: told.append((done, total)))
    assert report.counts == dict.fromkeys(bad, 1) and told[-1] == (16, 16)
    assert {kind: indices.tolist() for kind, indices in report.bad.items()} == {
        kind: [number] for number, kind in enumerate(bad, 1)
    }
    assert "record 2 of" in report.examples["missing_image"][0] and "none.png" in report.examples["missing_image"][0]
    assert report.skip_bad().tolist() == [0, 14, 15]
    assert report.skip_bad(ignore=["duplicate_id"]).tolist() == [0, 13, 14, 15]
    assert [record.id for record in Chosen(data, report.skip_bad())] == ["one", "data:15", "data:16"]
    with pytest.raises(ConfigError, match=r"13 of 16 .*box_type="):
        report.raise_for_problems()
    with pytest.raises(MediaError, match=r"^12 of 16 .* 1 missing_image"):
        report.raise_for_problems(ignore=["box_unit"])
    for number, kind in enumerate(bad, 1):
        if kind not in ("missing_image", "unreadable_image", "wrong_size", "duplicate_id"):
            with pytest.raises(MediaError, match=f"record {number + 1} of .*check_data"):
                data[number]


def test_a_clean_data_set_passes_and_says_so(folder):
    report = check_data(opened(folder, GOOD, GOOD))
    report.raise_for_problems()
    assert report.lines() == ["all 2 records can be trained on"] and report.skip_bad().tolist() == [0, 1]


def test_only_decoding_finds_a_truncated_jpeg(folder):
    Image.effect_noise((112, 56), 90).convert("RGB").save(folder / "gqa" / "a.jpg")
    whole = (folder / "gqa" / "a.jpg").read_bytes()
    (folder / "gqa" / "a.jpg").write_bytes(whole[: len(whole) // 2])
    data = opened(folder, {**GOOD, "image": "a.jpg"})
    assert not check_data(data, images="verify").counts
    assert check_data(data, images="decode").counts == {"unreadable_image": 1}
    assert check_data(opened(folder, {**GOOD, "image": "none"}), images="none").counts == {}


def test_examples_are_few_and_the_rest_is_counted(folder):
    report = check_data(opened(folder, *[{**GOOD, "answer": ""}] * 9), first=2)
    assert len(report.examples["empty_answer"]) == 2 and report.lines()[-1] == "  and 7 more"
    with pytest.raises(ConfigError, match="no record is left"):
        Chosen(opened(folder, GOOD), report.skip_bad())


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "viscot"},
        {"box_type": "xyxy"},
        {"boxes_from": "text"},
        {"samples": 0},
        {"seed": -1},
        {"path": ""},
        {"images": ""},
        {"prompt": "Answer."},
        {"overshoot": 2},
        {"held_out": True},
        {"kind": "moving_shapes"},
    ],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError):
        DataSpec(**{"kind": "visual_cot", "path": "a", "images": "b", **options})


def test_records_are_the_same_after_pickling(folder):
    import pickle

    data = opened(folder, *[{**GOOD, "question_id": n} for n in range(30)], samples=9, seed=1)
    again = pickle.loads(pickle.dumps(JsonRecords(folder / "data.jsonl", 9, 1)))
    assert [record.id for record in data] == [f"gqa/train/{content['question_id']}" for content in again]
    assert np.all(np.diff([again.number(k) for k in range(9)]) > 0)
