"""Rows of the vision encoder: what each one changes, what it is compared with, and what the page says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.config import PruneVidConfig, get_baseline_config, get_fast_config, get_recommended_config
from prunevid_qwen.evaluation.shapes.methods import Method, changes
from prunevid_qwen.moving_shapes.conditions import BY_NAME
from research.vision_accuracy import (
    CONDITIONS,
    FIRST_SEED,
    RECOMMENDED,
    folder_name,
    summary_of,
    vision_rows,
    vision_run,
)
from research.vision_page import FOLDERS, vision_tables
from tests.accuracy_folders import cell, line, write_run

pytestmark = pytest.mark.nightly

SAVES = ("reuse_threshold", "early_tau", "early_block", "reuse_identical")


def config_of(name: str, condition: str = "shake") -> PruneVidConfig:
    method = next(row.method for row in vision_rows() if row.method.name == name)
    return method.base_config(BY_NAME[condition])


def saved(name: str) -> list[Any]:
    reading = config_of(name).reading
    return [getattr(reading, each) for each in SAVES]


def test_every_row_changes_the_encoder_alone_or_what_it_is_shown() -> None:
    names = [row.method.name for row in vision_rows()]
    assert len(names) == len(set(names)) and {row.base for row in vision_rows()} == {RECOMMENDED, "unpruned"}
    shown = {"max_frames", "max_pixels"}
    decoders = {RECOMMENDED: get_recommended_config().flat(), "unpruned": get_baseline_config().flat()}
    for row in vision_rows():
        own = row.method.base_config(BY_NAME["drift"]).flat()
        decoder = decoders["unpruned" if row.method.name.endswith("alone") else RECOMMENDED]
        differs = {name for name in (*decoder, *own) if own.get(name) != decoder.get(name)}
        of_decoder = differs - {*(f"reading.{each}" for each in SAVES), *shown}
        assert of_decoder == ({"cluster_ratio"} if row.method.name.endswith("same tokens") else set()), row.method.name
        assert row.method.levers == ()


def test_the_base_runs_the_stock_tower_and_the_rows_say_what_they_save() -> None:
    assert saved(RECOMMENDED) == [None, None, None, False]
    assert saved("fast") == [8.0, None, None, True]
    assert config_of("fast") == Method("it", changes(get_fast_config()), ()).base_config(BY_NAME["shake"])
    assert saved("recommended + R 2") == [2.0, None, None, False]
    assert saved("S 0, 0.9 alone") == [None, 0.9, 0, False]
    assert saved("half the frames") == saved("smaller frames") == saved(RECOMMENDED)
    assert config_of("half the frames").max_frames * 2 == config_of(RECOMMENDED).max_frames
    sizes = {name: config_of("smaller frames", name).max_pixels for name in CONDITIONS}
    assert sizes == {"plain": 84 * 84, "shake": 126 * 126, "drift": 126 * 126}


def test_the_seeds_are_fresh_and_the_cameras_take_turns() -> None:
    run = vision_run(6)
    assert [video.condition.name for video in run.list_videos()] == [*CONDITIONS, *CONDITIONS]
    assert run.list_videos()[0].seed == FIRST_SEED == 1_010_000_000 and run.by == "tokens"
    assert vision_run(1, timed=True).by == "time"
    names = [folder_name(each) for each in ("bundled", "bundled-qwen3vl", "x/mine")]
    assert names == [*FOLDERS, "vision_accuracy_mine"]


# ---- figures, of answers that are known


def known_run(folder: Path) -> Path:
    """Four questions a video, six videos: recommended is right but once a video, fast also wrong once where it drifts.

    Half the frames is wrong twice a video; unpruned is always right.
    """
    lines, cells = [], []
    wrong = {"unpruned": 0, RECOMMENDED: 1, "fast": 1, "half the frames": 2}
    encoded = {"unpruned": 1.0, RECOMMENDED: 1.0, "fast": 0.25, "half the frames": 0.5}
    for method, count in wrong.items():
        for number in range(6):
            kind = CONDITIONS[number % 3]
            missed = count + (method == "fast" and kind == "drift")
            share = 0.75 if method == "fast" and kind == "drift" else encoded[method]
            lines += [
                line(number, question, method, None, question >= missed, condition=kind, vision_average=share)
                for question in range(4)
            ]
        cells += [{**cell(method, None, kind), "seconds": 2 * encoded[method]} for kind in CONDITIONS]
    record = {"cells": cells, "options": {"model_sha256": "f" * 64}, "commit": "0123abc", "seeds": [0, 5]}
    return write_run(folder, lines, {**record, "command": "python -m research.vision_accuracy"})


def test_each_row_is_paired_with_its_base_by_camera(tmp_path: Path) -> None:
    figures = summary_of(known_run(tmp_path / "run"))["figures"]
    rows = {row["method"]: row for row in figures["rows"]}
    assert list(rows) == ["unpruned", RECOMMENDED, "fast", "half the frames"]
    assert (figures["questions"], figures["videos"]) == (24, 6)
    assert rows["unpruned"]["base"] is None and rows[RECOMMENDED]["base"] == "unpruned"
    fast = rows["fast"]
    assert fast["encoder"] == {"plain": 0.25, "shake": 0.25, "drift": 0.75}
    assert {name: group["difference"] for name, group in fast["groups"].items()} == {
        "still or shaken": 0.0, "plain": 0.0, "shake": 0.0, "drift": -0.25, "all": pytest.approx(-1 / 12, abs=1e-4),
    }  # fmt: skip
    assert fast["groups"]["drift"]["n"] == 8 and fast["groups"]["still or shaken"]["videos"] == 4
    assert rows["half the frames"]["groups"]["all"]["difference"] == -0.25
    assert rows["half the frames"]["seconds"] == dict.fromkeys(CONDITIONS, 1.0)


def test_the_page_shows_both_toys_and_says_how_a_missing_table_is_made(tmp_path: Path) -> None:
    empty = vision_tables(tmp_path)
    assert set(empty) == {"vision accuracy", "natural clips", "moving camera"}
    assert all("python -m research" in text for text in empty.values())
    for name in FOLDERS:
        summary = summary_of(known_run(tmp_path / name))
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    clip = {"clip": "a", "rate": 2.0, "positions": 9, "grid": [10, 14], "still": {"8": 0.081}}
    record = {"source": {"wheel": "w.whl"}, "clips": [clip], "toy": [{**clip, "clip": "drift", "videos": 3}]}
    (tmp_path / "natural_clips.json").write_text(json.dumps({**record, "command": "c", "commit": "0"}))
    tables = vision_tables(tmp_path)
    rows = tables["vision accuracy"].splitlines()
    assert sum(row.startswith("| fast | recommended | 25.0 | 25.0 | 75.0 |") for row in rows) == 2
    drifting = next(row for row in rows if row.startswith("| fast")).split(" | ")
    assert drifting[-1].startswith("**\N{MINUS SIGN}25.0**") and drifting[-2].startswith("+0.0")
    assert drifting[-4] == "25.0"  # of the unpruned time
    assert "| a | 2 | 9 | 10 x 14 | 8.1 |" in tables["natural clips"]
    assert "| toy, drift | 2 | 9 |" in tables["natural clips"]
