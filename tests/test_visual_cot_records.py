"""Visual-CoT's records in both layouts, where their images are found, and what is said of those that are broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.tasks.visual_cot import (
    BOX_REQUEST,
    Sample,
    data_files,
    image_path,
    problems,
    read_samples,
)
from tests.visual_cot_set import still, write_sets


def test_both_layouts_give_the_same_kind_of_sample(tmp_path: Path) -> None:
    folder = write_sets(tmp_path)
    colors, shapes = (read_samples(path) for path in data_files([folder]))
    assert [(sample.set, sample.number) for sample in shapes] == [("shapes", k) for k in range(4)]
    item, scene = still(0).objects[0], still(0)
    color = f"{item.color.capitalize()}."
    question = f"What color is the {item.shape}?"
    assert shapes[0] == Sample("shapes", 0, "cot/shapes/0.png", question, color, "shapes")
    item = still(100).objects[0]
    assert colors[0].question == f"What shape is the {item.color} object?" and colors[0].answer == item.shape
    assert (colors[0].image, colors[0].dataset) == ("0.png", "drawn")
    assert scene.objects and not list(problems([*colors, *shapes], tmp_path, decode=True))


def test_the_request_for_a_box_and_the_placeholder_never_reach_the_model(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    turns = [{"from": "human", "value": f"What?\n<image> {BOX_REQUEST}"}, {"from": "gpt", "value": "[0, 0, 1, 1]"}]
    turns += [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "this"}]
    path.write_text(json.dumps([{"image": ["a.png", "a.png###[1, 2, 3, 4]"], "conversations": turns}]))
    (sample,) = read_samples(path)
    assert (sample.question, sample.answer, sample.image) == ("What?", "this", "a.png")


def test_images_are_looked_for_in_three_places(tmp_path: Path) -> None:
    sample = Sample("gqa", 3, "cot/gqa/1.png", "q", "a", dataset="gqa")
    for place in ("gqa/1.png", "gqa/cot/gqa/1.png", "cot/gqa/1.png"):  # the later ones win
        with pytest.raises(MediaError, match=r"no image of gqa/3 at .*cot/gqa/1.png or .*--images"):
            image_path(sample, tmp_path / "elsewhere")
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
        assert image_path(sample, tmp_path) == tmp_path / place


def test_everything_that_is_wrong_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("not a picture")
    noise = Image.effect_noise((64, 64), 90)
    noise.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-900])
    samples = [
        Sample("s", 0, "good.png", "q", "a"),
        Sample("s", 1, "good.png", "q", ""),
        Sample("s", 2, "good.png", "", "a"),
        Sample("s", 3, "", "q", "a"),
        Sample("s", 4, "none.png", "q", "a"),
        Sample("s", 5, "text.png", "q", "a"),
        Sample("s", 6, "cut.jpg", "q", "a"),
    ]
    told: list[tuple[str, int, int]] = []
    found = list(problems(samples, tmp_path, decode=True, tell=lambda *how_far: told.append(how_far)))
    said = ("s/1 has no reference", "s/2 has no question", "s/3 has no image", "no image of s/4", "s/5", "s/6")
    assert [sentence in problem for sentence, problem in zip(said, found, strict=True)] == [True] * 6
    assert told[-1] == ("checking", 7, 7)
    assert len(list(problems(samples, tmp_path))) == 5  # a file cut short shows only when every pixel is read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no records"),
        ("[]", "holds no records"),
        ('[{"question": "a"},\n {"ques', "not JSON .*cut short"),
        ('{"question": "a"}\n{"ques', "line 2 is not JSON .*cut short"),
        ('[{"prompt": "a", "image": "b"}]', r"record 0 \(prompt, image\) is of no known form"),
        ("[3]", r"record 0 \(int\)"),
    ],
)
def test_files_that_are_none(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_samples(path)


def test_files_are_named_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pass --data FILE"):
        data_files([])
    with pytest.raises(MediaError, match="no data at"):
        data_files([tmp_path / "none.json"])
    with pytest.raises(MediaError, match="no data at"):
        data_files([tmp_path])
    for name in ("a.json", "b.jsonl", "notes.txt"):
        (tmp_path / name).touch()
    assert data_files([tmp_path, tmp_path / "a.json"]) == [tmp_path / "a.json", tmp_path / "b.jsonl"]
    (tmp_path / "b.json").touch()
    with pytest.raises(ConfigError, match="both be the set 'b'"):
        data_files([tmp_path])
