"""Benchmarks and batches with families whose inputs the library's processor makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prunevid_qwen import PrunedVLM, PruneVidConfig, UnsupportedError, get_baseline_config
from prunevid_qwen.cli.app import main
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.answering import Answerer, Answering
from prunevid_qwen.evaluation.engine.local import here, run_here
from prunevid_qwen.evaluation.engine.task import Task
from prunevid_qwen.evaluation.engine.task_media import media_reader, media_wanted, read_media
from prunevid_qwen.evaluation.protocol.protocol import protocol_named
from prunevid_qwen.evaluation.store import read_lines
from tests import glimpse
from tests.benchmark_runs import lines, run
from tests.llava import save_llava
from tests.media import encode
from tests.stock_folders import save_folder
from tests.test_engine import Plain

ASKED = "what color is the circle ?"
PRUNING = PruneVidConfig(keep_ratio=0.5, pruning_layer=2, max_frames=4)
WHOLE = get_baseline_config().replace(max_frames=4)
CONFIGS = (("whole", WHOLE), ("pruning", PRUNING))


@pytest.fixture(scope="module")
def onevision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("onevision"), "llava_onevision")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def model(onevision: Path) -> PrunedVLM:
    return PrunedVLM(str(onevision), WHOLE, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("v") / "a.mp4", frames=20)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p") / "a.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 90, 3), dtype=np.uint8)).save(path)
    return path


def alone(model: PrunedVLM, config: PruneVidConfig, *given: Any, **named: Any) -> dict[str, Any]:
    greedy = {"do_sample": False, "max_new_tokens": 3, "return_stats": True}
    return model.with_config(config).generate(*given, **named, **greedy)  # type: ignore[no-any-return]


def check_same(line: dict[str, Any], found: dict[str, Any]) -> None:
    stats = found["stats"]
    assert line["error"] is None and line["raw"].strip() == found["answer"]
    assert {name: line["tokens"][name] for name in stats["tokens"]} == stats["tokens"]
    assert line["tokens"]["prompt"] == stats["input"]["prompt_tokens"]


# ---- the engine


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_run_answers_as_the_package_does(
    model: PrunedVLM, onevision: Path, video: Path, photo: Path, workers: int
) -> None:
    answerer = Answerer(model, CONFIGS, {"max_new_tokens": 3})
    names = tuple(name for name, _ in CONFIGS)
    media = [(Media("video", str(video)),), (Media("image", str(photo)),), (Media("video", str(video), 0.2, 0.6),)]
    tasks = [Task(each, ((Plain(str(number), ASKED), names),)) for number, each in enumerate(media)]
    reading = media_wanted(str(onevision), {}).by_config(PRUNING)
    made = list(run_here(tasks, reading, answerer.answer, workers))
    assert [line["id"] for line in made] == ["0", "0", "1", "1", "2", "2"]
    for line, config in zip(made, (WHOLE, PRUNING) * 3, strict=True):
        if line["id"] == "1":
            found = alone(model, config, images=str(photo), question=ASKED)
            assert line["media"] == found["stats"]["input"]["images"]
        else:
            part = {"start": 0.2, "end": 0.6} if line["id"] == "2" else {}
            found = alone(model, config, str(video), ASKED, **part)
            assert line["media"] == found["stats"]["input"]["videos"]
        check_same(line, found)
        assert 0 < line["seconds"]["vision"] < line["seconds"]["total"]


def test_a_protocol_chooses_the_frames_and_the_processor_their_size(
    model: PrunedVLM, onevision: Path, video: Path
) -> None:
    protocol = protocol_named("lmms", "mvbench", frames=4)
    [read] = read_media(
        media_wanted(str(onevision), {}).by_protocol(protocol, "pyav", None), (Media("video", str(video)),)
    ).media
    assert read.frames.shape[:3] == (4, *read.facts["size"]) and read.facts["frame_pixels"] is None
    assert read.indices == (0, 6, 13, 19) and read.facts["padded"] == 0
    task = Task((Media("video", str(video)),), ((Plain("a", ASKED), ("whole", "pruning")),))
    reading = media_wanted(str(onevision), {}).by_protocol(protocol, "pyav", None)
    answerer = Answerer(model, CONFIGS, {"max_new_tokens": 3})
    for line, (_, config) in zip(answerer.answer(task, read_media(reading, task.media)), CONFIGS, strict=True):
        check_same(line, alone(model, config, read.frames, ASKED))
        [facts] = line["media"]
        assert facts["indices"] == [0, 6, 13, 19] and facts["resized"] and facts["grid"][0] == 4


def test_the_engine_loads_it_and_pruning_is_not_the_whole(onevision: Path, photo: Path) -> None:
    task = Task((Media("image", str(photo)),), ((Plain("a", ASKED), ("whole", "pruning")),))
    answering = Answering(CONFIGS, str(onevision), {"device": "cpu"}, {"max_new_tokens": 2})
    whole, pruned = here(0)([task], media_wanted(str(onevision), {}).by_config(PRUNING), answering)
    assert whole["kept_ratio"] == 1 and pruned["kept_ratio"] < 1


def test_images_are_padded_for_the_config_whose_predictor_was_trained_on_such(llava: Path, photo: Path) -> None:
    model = PrunedVLM(str(llava), get_baseline_config(), device="cpu")
    configs = (("whole", get_baseline_config()), ("glimpse", glimpse.config(glimpse.LLAVA, keep_threshold=None)))
    task = Task((Media("image", str(photo)),), ((Plain("a", ASKED), ("whole", "glimpse")),))
    read = read_media(media_wanted(str(llava), {}).by_config(PruneVidConfig()), task.media)
    for line, (_, config) in zip(
        Answerer(model, configs, {"max_new_tokens": 3}).answer(task, read), configs, strict=True
    ):
        found = alone(model, config, images=str(photo), question=ASKED)
        check_same(line, found)
        assert line["media"] == found["stats"]["input"]["images"]
        assert ("square" in line["media"][0]) == (line["config"] == "glimpse")


def test_a_prompt_that_the_model_does_not_take_is_an_error_of_its_question(
    model: PrunedVLM, onevision: Path, video: Path, photo: Path
) -> None:
    media = (Media("video", str(video)), Media("video", str(video), 0.0, 0.05))
    task = Task(media, ((Plain("a", ASKED), ("whole",)),))
    reading = media_wanted(str(onevision), {}).by_config(PRUNING)
    [line] = Answerer(model, CONFIGS, {}).answer(task, read_media(reading, media))
    assert line["raw"] is None and "max_frames" in line["error"]


def test_what_is_not_shown_or_not_heeded_is_refused_by_name(llava: Path, onevision: Path) -> None:
    wanted = media_wanted(str(llava), {})
    assert wanted.shown == ("image",) and wanted.video is wanted.image is None
    with pytest.raises(UnsupportedError, match="video"):
        wanted.check_shown([Media("frames", "folder")])
    wanted.check_shown([Media("image", "a.png")])
    for name in ("min_pixels", "max_pixels", "total_pixels", "seconds_per_grid", "position_scheme"):
        assert name in wanted.not_applied and name in str(wanted.note)
        with pytest.raises(ConfigError, match=name):
            media_wanted(str(onevision), {}).check_asked([name, "frames"])
    for config in (PRUNING.replace(max_pixels=10**5), PRUNING.replace(total_pixels=10**6)):
        with pytest.raises(ConfigError, match="_pixels"):
            wanted.by_config(config)
    with pytest.raises(UnsupportedError, match="qwen2_5_vl"):
        media_reader(str(llava), {})
    ours = media_wanted("bundled", {})
    assert ours.not_applied == () and ours.note is None and ours.video == media_reader("bundled", {}).video


# ---- commands


def test_a_benchmark_of_videos(
    onevision: Path, dozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--protocol", "mvbench_videochat2", "--frames", "4", "--max_new_tokens", "3", "--limit", "2")
    words = (*asked, "--configs", "baseline,fastv", "--model_path", str(onevision), "--device", "cpu")
    assert run(dozen, tmp_path / "run", *words) == 0
    assert "max_pixels" in capsys.readouterr().err
    found = lines(tmp_path / "run")
    assert len(found) == 4 and all(line["error"] is None for line in found)
    assert {line["config"]: round(line["kept_ratio"], 1) for line in found} == {"baseline": 1.0, "fastv": 0.5}
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(record["not_applied"]) == set(media_wanted(str(onevision), {}).not_applied)
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert all(name in page.partition("not applied")[2] for name in record["not_applied"])
    assert run(dozen, tmp_path / "other", *words, "--max_pixels", "301056") == ConfigError.exit_code
    assert "max_pixels" in capsys.readouterr().err and not (tmp_path / "other").exists()
    assert run(dozen, tmp_path / "plan", *words, "--dry_run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["not_applied"] == record["not_applied"] and planned["first"]["frames, height, width"][0][0] == 4


def test_a_benchmark_of_videos_is_refused_where_none_is_shown(
    llava: Path, dozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dozen, tmp_path / "run", "--model_path", str(llava)) == UnsupportedError.exit_code
    assert "video" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_batch(
    model: PrunedVLM, onevision: Path, llava: Path, video: Path, photo: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    questions, out = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    asked = [{"video": str(video)}, {"image": str(photo)}, {"video": str(video), "image": str(photo)}]
    questions.write_text("".join(json.dumps({"question": ASKED, **each}) + "\n" for each in asked))
    words = ["batch", str(questions), "--out", str(out), "--max_new_tokens", "3", "--workers", "0", "--device", "cpu"]
    pruning = ["--keep_ratio", "0.5", "--pruning_layer", "2", "--max_frames", "4"]
    assert main([*words, *pruning, "--model_path", str(onevision)]) == 0
    for line, each in zip(read_lines(out), asked, strict=True):
        found = alone(model, PRUNING, each.get("video"), ASKED, images=each.get("image"))
        assert line["answer"] == found["answer"] and line["error"] is None
        assert line["tokens"]["visual"] == found["stats"]["tokens"]["visual"]
    before = out.read_bytes()
    assert main([*words, *pruning, "--model_path", str(onevision), "--max_pixels", "301056"]) == ConfigError.exit_code
    words[3] = str(tmp_path / "none.jsonl")
    assert main([*words, *pruning, "--model_path", str(llava)]) == UnsupportedError.exit_code
    assert out.read_bytes() == before and not (tmp_path / "none.jsonl").exists()
    assert "video" in capsys.readouterr().err
