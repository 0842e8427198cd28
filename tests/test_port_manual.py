"""The manual of the port that people come from: every name and call in it works here, on a random model of 28 layers.

The model lies in a folder that is called like its hub id, so that calls with that id, or with none, find it unchanged.
"""

from __future__ import annotations

import inspect
import logging
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import prunevid_qwen
from prunevid_qwen import (
    ConfigError,
    PruneVidConfig,
    PruneVidQwen25VL,
    get_aggressive_config,
    get_baseline_config,
    get_config,
    get_conservative_config,
    get_paper_config,
    get_stage1_only_config,
)
from prunevid_qwen.cli import main
from prunevid_qwen.config import PRESETS
from prunevid_qwen.evaluation.store.identity import config_options
from prunevid_qwen.loading import bundled_model
from research.bundled_model.architecture import build_model, deepen

ID = "Qwen/Qwen2.5-VL-7B-Instruct"
LAYERS = 28
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ASKED = "What happens?"
CLIPS = Path(bundled_model()).parent / "clips"

# Everything the manual's options table names, with the values it names.
TABLE: list[dict[str, Any]] = [
    {"tau": 0.8}, {"cluster_ratio": 0.5}, {"temporal_segment_ratio": 0.25}, {"dpc_knn_k": 5}, {"keep_ratio": 0.4},
    {"pruning_layer": 10}, {"attention_aggregation": "max"}, {"attention_aggregation": "mean"},
    {"enable_cache_compression": True}, {"max_frames": 16}, {"video_sampling": "uniform"}, {"video_sampling": "fps"},
]  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "tau": 0.8, "cluster_ratio": 0.5, "temporal_segment_ratio": 0.25, "dpc_knn_k": 5, "enable_stage1": True,
    "keep_ratio": 0.4, "pruning_layer": 10, "attention_aggregation": "max", "enable_stage2": True,
    "enable_cache_compression": True, "verbose": True, "collect_stats": True,
}  # fmt: skip
STAGES = ("enable_stage1", "enable_stage2", "enable_cache_compression")
SINGLE = {
    "stage 1": get_stage1_only_config(),
    "stage 1, spelt out": PruneVidConfig(enable_stage1=True, enable_stage2=False, enable_cache_compression=False),
    "stage 2": PruneVidConfig(enable_stage1=False, enable_stage2=True, enable_cache_compression=False),
    "stages 1 and 2": PruneVidConfig(enable_cache_compression=False),
    "stages 2 and 3": PruneVidConfig(enable_stage1=False),
    "stage 3": PruneVidConfig(enable_stage1=False, enable_stage2=False),
    "baseline": get_baseline_config(),
    "all": PruneVidConfig(**EVERYTHING),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the model under its id, a video and two images."""
    folder = tmp_path_factory.mktemp("port")
    model = build_model(0)
    deepen(model, LAYERS, seed=1)
    vocabulary = model.config.get_text_config().vocab_size
    model.generation_config.eos_token_id = list(range(vocabulary))  # the first token ends the answer, whichever it is
    model.save_pretrained(folder / ID)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
        shutil.copy(Path(bundled_model()) / name, folder / ID)
    shutil.copy(next(CLIPS.glob("*.mp4")), folder / "video.mp4")
    for number, color in ((1, "red"), (2, "blue")):
        Image.new("RGB", (112, 84), color).save(folder / f"image{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> PruneVidQwen25VL:
    return PruneVidQwen25VL(model_path=str(folder / ID), device=DEVICE)


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def check_stats(stats: dict[str, Any]) -> None:
    """Every figure that the manual prints is a number of the right kind and range, and its formats take it."""
    one, two, three = (stats[stage] for stage in ("stage1", "stage2", "stage3"))
    counts = (one["original_tokens"], one["compressed_tokens"], two["original_tokens"], two["compressed_tokens"])
    assert all(type(count) is int for count in counts)
    assert list(counts) == sorted(counts, reverse=True) and counts[1] == counts[2]
    assert two["compressed_tokens"] == two["kept_tokens"]
    percentage, static, less = one["reduction_percentage"], one["static_ratio"], three["reduction_ratio"]
    assert all(isinstance(figure, float) for figure in (percentage, static, less))
    assert 0 <= percentage <= 100 and 0 <= static <= 1 and 0 <= less <= 1
    assert f"{percentage:.1f}{static:.1%}{less:.1%}".count("%") == 2


# ---- its blocks


def test_the_basic_block() -> None:
    model = PruneVidQwen25VL(model_path=ID, config=get_paper_config(), device=DEVICE)
    assert len(model.model.model.language_model.layers) == LAYERS
    result = model.generate(video_path="video.mp4", question=ASKED, max_new_tokens=512)
    assert isinstance(result["answer"], str)
    assert 0 < float(f"{result['stats']['stage1']['reduction_percentage']:.1f}") < 100
    assert result["stats"]["stage2"]["layer"] == 10


def test_positional_and_without_a_path() -> None:
    presets = (get_conservative_config(), get_aggressive_config())
    models = (PruneVidQwen25VL(ID, config=presets[0]), PruneVidQwen25VL(config=presets[1]))
    kept = []
    for model, preset in zip(models, presets, strict=True):
        assert model.name == ID and model.config == preset
        result = model.generate("video.mp4", ASKED)
        check_stats(result["stats"])
        kept.append(result["stats"]["stage2"]["compressed_tokens"])
    assert kept[0] > kept[1]


def test_the_custom_block(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    custom = PruneVidConfig(**EVERYTHING)
    model = PruneVidQwen25VL(config=custom)
    stats = model.generate(video_path="video.mp4", question=ASKED)["stats"]
    check_stats(stats)
    lines = [record for record in caplog.records if record.name == "prunevid_qwen"]
    assert [record.levelno for record in lines] == [logging.INFO] * 3
    one, two, three = (record.getMessage() for record in lines)
    for line, stage in ((one, stats["stage1"]), (two, stats["stage2"])):
        assert f"{stage['original_tokens']} -> {stage['compressed_tokens']}" in line
    assert f"{stats['stage3']['original_length']} -> {stats['stage3']['compressed_length']}" in three
    assert "layer 10" in two
    quiet = custom.replace(verbose=False, collect_stats=False)
    assert stats["config"] == quiet.flat() and config_options(custom) == config_options(quiet)  # the same run


@pytest.mark.parametrize("case", SINGLE)
def test_the_ablation_block_and_its_siblings(loaded: PruneVidQwen25VL, case: str) -> None:
    config = SINGLE[case]
    stats = loaded.with_config(config).generate("video.mp4", ASKED)["stats"]
    check_stats(stats)
    for stage, enabled in zip(("stage1", "stage2", "stage3"), STAGES, strict=True):
        assert stats[stage]["enabled"] == getattr(config, enabled)
    assert (stats["stage1"]["reduction_percentage"] > 0) == config.enable_stage1
    assert (stats["stage2"]["compressed_tokens"] < stats["stage2"]["original_tokens"]) == config.enable_stage2


def test_the_images_block(loaded: PruneVidQwen25VL) -> None:
    stats = loaded.generate(images=["image1.jpg", "image2.jpg"], question=ASKED)["stats"]
    check_stats(stats)
    assert len(stats["input"]["images"]) == 2 and stats["stage1"]["reduction_percentage"] == 0.0


def test_every_preset_has_every_figure() -> None:
    toy = PruneVidQwen25VL("bundled", device=DEVICE)  # "glimpse" knows this model alone
    for name in PRESETS:
        check_stats(toy.with_config(get_config(name)).generate("video.mp4", ASKED, max_new_tokens=1)["stats"])


def test_a_text_has_every_figure_too(loaded: PruneVidQwen25VL) -> None:
    stats = loaded.generate(question=ASKED)["stats"]
    check_stats(stats)
    assert stats["stage1"]["original_tokens"] == stats["stage2"]["compressed_tokens"] == 0


def test_the_statistics_block(loaded: PruneVidQwen25VL) -> None:
    video_path, question = "video.mp4", ASKED
    stats = loaded.generate(video_path, question, return_stats=True)["stats"]
    check_stats(stats)
    assert stats["stage1"]["original_tokens"] > stats["stage1"]["compressed_tokens"]
    assert stats["stage2"]["original_tokens"] > stats["stage2"]["compressed_tokens"]
    assert stats["stage3"]["reduction_ratio"] > 0


@pytest.mark.parametrize(("config", "asked", "there"), [
    (True, None, True), (False, None, False), (True, False, False), (False, True, True),
])  # fmt: skip
def test_who_has_the_last_word_on_stats(
    loaded: PruneVidQwen25VL, config: bool, asked: bool | None, there: bool
) -> None:
    model = loaded.with_config(PruneVidConfig(collect_stats=config))
    one = model.generate("video.mp4", ASKED, return_stats=asked)
    several = model.generate("video.mp4", [ASKED, ASKED], return_stats=asked)
    assert [("stats" in result) for result in (one, *several)] == [there] * 3


def test_verbose_without_stats_names_each_sample(loaded: PruneVidQwen25VL, caplog: pytest.LogCaptureFixture) -> None:
    model = loaded.with_config(PruneVidConfig(verbose=True, collect_stats=False))
    results = model.generate("video.mp4", [ASKED, ASKED])
    assert all("stats" not in result for result in results)
    lines = [record.getMessage() for record in caplog.records if record.name == "prunevid_qwen"]
    assert (
        len(lines) == 6 and all("1 of 2" in line for line in lines[:3]) and all("2 of 2" in line for line in lines[3:])
    )
    caplog.clear()
    loaded.generate("video.mp4", ASKED)
    assert [record for record in caplog.records if record.name == "prunevid_qwen"] == []  # nobody asked


def test_the_command_line_block(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--video_path", "video.mp4", "--question", ASKED, "--config", "paper", "--verbose"]
    assert main(words, program="demo.py") == 0
    lines = [record.getMessage() for record in caplog.records if record.name == "prunevid_qwen"]
    assert [f"stage {number}" in line for number, line in enumerate(lines, 1)] == [True] * 3
    assert "verbose=" not in capsys.readouterr().out  # the options of a receipt are those of the run
    caplog.clear()
    assert main(words[:-1], program="demo.py") == 0
    assert [record for record in caplog.records if record.name == "prunevid_qwen"] == []


# ---- its names and options


def test_its_names() -> None:
    for name in (
        "PruneVidQwen25VL", "PruneVidConfig", "get_baseline_config", "get_paper_config", "get_conservative_config",
        "get_aggressive_config", "get_stage1_only_config",
    ):  # fmt: skip
        assert name in prunevid_qwen.__all__ and callable(getattr(prunevid_qwen, name))
    parameters = inspect.signature(PruneVidQwen25VL).parameters
    assert parameters["model_path"].default == ID
    assert list(parameters)[:3] == ["model_path", "config", "device"]
    taken = inspect.signature(PruneVidQwen25VL.generate).parameters
    assert {"video_path", "question", "images", "max_new_tokens", "return_stats"} <= set(taken)


@pytest.mark.parametrize("options", TABLE, ids=str)
def test_its_options(loaded: PruneVidQwen25VL, options: dict[str, Any]) -> None:
    config = PruneVidConfig(**options)
    assert config.flat().items() >= options.items()
    assert loaded.with_config(config).config is config


@pytest.mark.parametrize(("options", "frames"), [
    ({"max_frames": 16, "video_sampling": "uniform"}, 16), ({"max_frames": 4, "video_sampling": "uniform"}, 4),
    ({"max_frames": 16, "video_sampling": "fps", "fps": 1.0}, None),
])  # fmt: skip
def test_how_frames_are_taken(loaded: PruneVidQwen25VL, options: dict[str, Any], frames: int | None) -> None:
    read = loaded.with_config(PruneVidConfig(**options)).generate("video.mp4", ASKED)["stats"]["input"]["videos"][0]
    times = read["timestamps"]
    if frames is None:
        assert all(later - earlier == pytest.approx(1.0, abs=0.2) for earlier, later in pairwise(times))
    else:
        assert read["frames"] == len(times) == frames


# ---- options of a stage that is off, and the layer that a model lacks


@pytest.mark.parametrize("options", [
    {"enable_stage1": False, "tau": 0.5, "cluster_ratio": 0.25, "dpc_knn_k": 7, "temporal_segment_ratio": 0.5},
    {"enable_stage2": False, "keep_ratio": 0.2, "pruning_layer": 10, "attention_aggregation": "mean"},
    {"enable_stage2": False, "pruning_layer": LAYERS},  # on a model that lacks the layer
    {"enable_stage2": False, "max_keep_ratio": 0.2},
    {"enable_stage2": False, "selector": "glimpse", "keep_ratio": 0.2},
    {"enable_stage2": False, "enable_cache_compression": True},
], ids=str)  # fmt: skip
def test_options_of_a_stage_that_is_off_are_accepted(loaded: PruneVidQwen25VL, options: dict[str, Any]) -> None:
    config = PruneVidConfig(**options)
    stats = loaded.with_config(config).generate("video.mp4", ASKED)["stats"]
    check_stats(stats)
    plain = loaded.with_config(PruneVidConfig(**{name: options[name] for name in STAGES if name in options}))
    assert plain.generate("video.mp4", ASKED)["stats"]["tokens"] == stats["tokens"]


def test_a_layer_that_the_toy_lacks_is_an_error_that_names_the_share() -> None:
    with pytest.raises(ConfigError, match=r"0\.36"):
        PruneVidQwen25VL("bundled", config=PruneVidConfig(pruning_layer=10))
    toy = PruneVidQwen25VL("bundled", config=PruneVidConfig(pruning_layer=0.36))
    assert toy.generate("video.mp4", ASKED, max_new_tokens=1)["stats"]["stage2"]["layer"] == 2
