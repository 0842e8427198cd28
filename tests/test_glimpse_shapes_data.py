"""Moving shapes as training data: the target is the benchmark's evidence, and nothing held out is trained on."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun
from prunevid_qwen.evaluation.shapes.videos import CALIBRATION_SEED, FIRST_SEED, ShapesVideo
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.loading import bundled_model
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.moving_shapes import COLORS, FIRST_HELD_OUT_SEED, boxes, frame_times
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from prunevid_qwen.moving_shapes.cover import LEAST_COVER, token_cover
from prunevid_qwen.training.glimpse.data import DataSpec, open_data
from prunevid_qwen.training.glimpse.records_check import check_data
from prunevid_qwen.training.glimpse.shapes_data import HELD_OUT_SEED, HELD_OUT_VIDEOS, ShapesClip, ShapesData
from prunevid_qwen.training.glimpse.shapes_folder import write_shapes_folder
from research.bundled_model.clips import held_out
from research.choices import CHOICES_SEED

RECORDS = list(ShapesData(160, seed=5))


@pytest.fixture(scope="module")
def preprocessor():
    return Preprocessor.from_pretrained(bundled_model(), "qwen2_5_vl", local_files_only=True)


def native(record):
    kind = record.source.condition
    return kind.frames // 2, kind.height // 28, kind.width // 28


def asked(record):
    """The question of a record, found again among all that can be asked of its scene."""
    return record.question.splitlines()[0]


def test_the_target_is_what_the_benchmark_calls_evidence():
    kinds, exact = set(), 0
    for record in RECORDS:
        clip = record.source
        video = ShapesVideo(clip.condition, clip.seed)
        question = replace(video.questions(1)[0], objects=clip.objects)
        shows = video.shows(question)
        seen = shows[shows.any(1)].any(0)  # of an object that no token shows well the next test asks
        assert not (seen & ~record.mask([native(record)])).any()
        if shows.any(1).all():
            exact += 1
            assert np.array_equal(record.mask([native(record)]), seen) and 0 < seen.sum() < len(seen)
        kinds.add(clip.condition.name)
    assert kinds == set(CONDITIONS) and exact > 150


def test_an_object_that_no_token_shows_well_still_has_a_target():
    clip = ShapesClip(CONDITIONS["plain"], 600063952, (2,))  # brief, and on the corner of four tokens
    cover = token_cover(clip.scene, frame_times(16))[2]
    assert 0 < cover.max() <= LEAST_COVER
    assert np.array_equal(clip.shows((8, 4, 4)), (cover == cover.max()).reshape(-1))


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 2)])
def test_cover_on_any_grid_is_the_share_of_the_token(grid):
    scene, times = CONDITIONS["plain"].scene(FIRST_HELD_OUT_SEED), frame_times(4)
    cover, box = token_cover(scene, times, grid), boxes(scene, times)
    for k, pair, row, column in np.ndindex(cover.shape):
        top, bottom = (row / grid[0] * 112, (row + 1) / grid[0] * 112)
        left, right = (column / grid[1] * 112, (column + 1) / grid[1] * 112)
        shares = []
        for x0, y0, x1, y1 in box[k, 2 * pair : 2 * pair + 2].tolist():
            area = max(0, min(x1, right) - max(x0, left)) * max(0, min(y1, bottom) - max(y0, top))
            shares.append(area / ((right - left) * (bottom - top)))
        assert cover[k, pair, row, column] == pytest.approx(sum(shares) / 2, abs=1e-12)


def test_a_question_is_about_the_objects_that_prove_its_answer():
    seen = set()
    for record in RECORDS:
        objects, about = record.source.scene.objects, set(record.source.objects)
        text, answer = asked(record), record.answer
        words = dict(line[1:].split(") ") for line in record.question.splitlines() if line.startswith("("))
        word = words.get(answer, answer)
        if text.startswith("How many"):
            seen.add("count")
            assert about == set(range(len(objects)))
        elif text.startswith("Is there"):
            color, shape = text.rstrip("?").split()[-2:]
            both = {k for k, item in enumerate(objects) if (item.color, item.shape) == (color, shape)}
            either = {k for k, item in enumerate(objects) if item.color == color or item.shape == shape}
            seen.add(word)
            assert about == (both if word == "yes" else either) and about
            assert bool(both) == (word == "yes")
        else:
            seen.add("one")
            assert len(about) == 1
    assert seen == {"count", "yes", "no", "one"}


def test_the_target_follows_frames_that_were_resized():
    clip = ShapesClip(CONDITIONS["clutter"], 11, (0, 1, 2))
    fine, coarse = clip.shows((8, 6, 6)).reshape(8, 6, 6), clip.shows((8, 3, 3)).reshape(8, 3, 3)
    assert coarse.any() and coarse.sum() < fine.sum()
    box = boxes(clip.scene, frame_times(16))[list(clip.objects)]
    for step, row, column in np.argwhere(coarse):
        x0, y0 = column * 56, row * 56
        pair = box[:, 2 * step : 2 * step + 2].reshape(-1, 4)
        assert ((pair[:, 0] < x0 + 56) & (pair[:, 2] > x0) & (pair[:, 1] < y0 + 56) & (pair[:, 3] > y0)).any()
    with pytest.raises(ConfigError, match="temporal positions"):
        clip.shows((9, 6, 6))


def test_the_preprocessor_takes_the_messages_and_the_grid_is_the_scenes(preprocessor):
    for record in RECORDS[:24]:
        sample = preprocessor.sample(record.messages(preprocessor.media), PruneVidConfig())
        (medium,) = sample.media
        t, h, w = medium.grid[0].tolist()
        assert (t, h // 2, w // 2) == native(record)
        assert medium.seconds_per_grid == 16 / record.source.condition.frames
        assert asked(record) in sample.text
        assert sample.text.endswith(record.answer_prefix or "<|im_start|>assistant\n")
        assert bool(record.answer_prefix) == ("Options:" in record.question) == (not record.turn_ends)


def test_a_model_that_asks_for_larger_frames_gets_them_as_drawn():
    reader = MediaReader()  # stock: at least 128 tokens a frame
    medium = RECORDS[0].source.medium(reader)
    assert tuple(medium.grid[0].tolist()) == tuple(np.array(native(RECORDS[0])) * (1, 2, 2))


def fingerprint():
    found = hashlib.sha256()
    for index in (7, 0, 3):
        record = ShapesData(10, seed=2)[index]
        found.update(repr(record).encode() + record.mask([native(record)]).tobytes())
        found.update(record.source.frames().tobytes())
    return found.hexdigest()


@pytest.mark.nightly
def test_a_record_is_the_same_in_any_order_and_any_process():
    data = ShapesData(10, seed=2)
    assert data[4] == data[4] == list(ShapesData(500, seed=2, choice_share=0.3))[4]
    assert data[4] != ShapesData(10, seed=3)[4]
    command = "from tests.test_glimpse_shapes_data import fingerprint; print(fingerprint())"
    other = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert other.stdout.split()[-1] == fingerprint()
    with pytest.raises(IndexError):
        data[10]


def test_training_and_held_out_scenes_never_meet():
    trained = {record.source.seed for record in RECORDS}
    assert max(trained) < FIRST_HELD_OUT_SEED and len(trained) > 150
    judged = [record.source.seed for record in ShapesData(50, seed=5, held_out=True)]
    assert judged == list(range(HELD_OUT_SEED, HELD_OUT_SEED + 50))
    last = HELD_OUT_SEED + HELD_OUT_VIDEOS
    advised = FIRST_HELD_OUT_SEED + 5_000_000  # CONTRIBUTING.md: for benchmarks of one's own
    for other in (FIRST_SEED, CALIBRATION_SEED, CHOICES_SEED, held_out(0), AccuracyRun.first_seed, advised):
        assert other + 1_000_000 <= HELD_OUT_SEED or other >= last


def test_types_conditions_and_letters_come_as_asked():
    types = [asked(record).split()[0] for record in RECORDS]
    assert 0.04 < np.mean([word == "How" for word in types]) < 0.3
    letters = np.mean([bool(record.answer_prefix) for record in RECORDS])
    assert 0.15 < letters < 0.45
    spec = DataSpec("moving_shapes", samples=40, conditions={"plain": 1, "shake": 3}, types=("color",), choice_share=1)
    only = [open_data(spec)[index] for index in range(40)]
    assert {record.source.condition.name for record in only} == {"plain", "shake"}
    assert np.mean([record.source.condition.name == "shake" for record in only]) > 0.5
    assert all(asked(record).startswith("What color is the") and record.answer in "ABCD" for record in only)


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 0},
        {"samples": HELD_OUT_VIDEOS + 1, "held_out": True},
        {"choice_share": 1.5},
        {"conditions": {"rain": 1}},
        {"conditions": {"plain": 0}},
        {"types": ("last",)},
        {"types": ("color", "taste")},
    ],
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError, match="got"):
        ShapesData(**{"samples": 5, **options})


# ---- pictures on disk


def test_a_written_box_holds_the_object_it_is_about(tmp_path):
    data = open_data(DataSpec("visual_cot", str(write_shapes_folder(tmp_path, 40)), str(tmp_path)))
    looked = 0
    for index in range(40):
        record = data[index]
        named = [color for color in COLORS if f"the {color} object" in record.question or record.answer == color]
        if named:
            looked += 1
            pixels = np.asarray(Image.open(record.source)).astype(int)
            x0, y0, x1, y1 = (round(112 * side) for side in record.boxes[0])
            near = np.abs(pixels - np.array(COLORS[named[0]])).max(-1) <= 16
            assert near[y0:y1, x0:x1].mean() > 0.2 and near[y0:y1, x0:x1].sum() > 0.9 * near.sum()
    assert looked > 10


def test_the_bundled_model_answers_about_written_pictures(tmp_path, preprocessor):
    model = PruneVidQwen25VL.from_pretrained(bundled_model(), device="cpu").model
    path = write_shapes_folder(tmp_path, 24, held_out=True)
    data = open_data(DataSpec("visual_cot", str(path), str(tmp_path)))
    records = [data[index] for index in range(24)]
    batch = preprocessor.batch([preprocessor.sample(r.messages(preprocessor.media), PruneVidConfig()) for r in records])
    output = model.generate(**batch, max_new_tokens=2, do_sample=False)[:, batch["input_ids"].shape[1] :]
    given = [text.strip() for text in preprocessor.tokenizer.batch_decode(output, skip_special_tokens=True)]
    assert sum(text == record.answer for text, record in zip(given, records, strict=True)) >= 22


def test_the_written_folder_is_a_data_set_without_flaws(tmp_path, preprocessor):
    path = write_shapes_folder(tmp_path, 30, seed=1)
    data = open_data(DataSpec("visual_cot", str(path), str(tmp_path)))
    check_data(data, images="decode").raise_for_problems()
    assert len(data) == 30
    for index in range(0, 30, 5):
        record = data[index]
        sample = preprocessor.sample(record.messages(preprocessor.media), PruneVidConfig())
        assert tuple(sample.media[0].grid[0].tolist()) == (1, 8, 8)
        assert 0 < record.mask([(1, 4, 4)]).sum() <= 16
    assert check_data(ShapesData(3)).counts == {}


def test_the_written_folder_is_the_same_again_and_its_held_out_part_is_another(tmp_path):
    first, again = write_shapes_folder(tmp_path / "a", 6), write_shapes_folder(tmp_path / "b", 6)
    assert first.read_bytes() == again.read_bytes()
    assert write_shapes_folder(tmp_path / "c", 6, seed=1).read_bytes() != first.read_bytes()
    held = write_shapes_folder(tmp_path / "a", 6, held_out=True)
    assert held.name.endswith("_val.jsonl") and len(list((tmp_path / "a" / "moving_shapes").iterdir())) == 12
    with pytest.raises(ConfigError, match="count"):
        write_shapes_folder(tmp_path, 0)
