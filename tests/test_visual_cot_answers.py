"""Visual-CoT's questions on the engine: a line is what the model answers alone, whoever makes its inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.cli import main
from prunevid_qwen.config import PruneVidConfig, get_config
from prunevid_qwen.evaluation.engine.answering import GREEDY
from prunevid_qwen.evaluation.engine.local import here
from prunevid_qwen.evaluation.tasks.visual_cot import VisualCotRun, competitors, image_path
from tests.llava import save_llava
from tests.visual_cot_set import LINE, lines, write_sets


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("visual cot")
    write_sets(root)
    return root


def test_a_limit_is_spread_over_each_set(root: Path) -> None:
    all_of, some = (
        VisualCotRun((root / "benchmark",), root, competitors([("paper", get_config("paper"))]), limit=limit).samples()
        for limit in (None, 2)
    )
    for name in {sample.set for sample in all_of}:
        whole = [sample.id for sample in all_of if sample.set == name]
        assert [sample.id for sample in some if sample.set == name] == [whole[0], whole[len(whole) // 2]]


def test_each_line_is_what_the_model_answers_alone(root: Path) -> None:
    # two sizes of images and two chunk sizes of videos in one run; a config is answered as if it were the only one
    small = get_config("glimpse").replace(max_pixels=6272, vision_chunk_tokens=4)  # 8 tokens of 16
    configs = competitors(
        [("few", get_config(str(root / "few.json"))), ("small", small), ("paper", get_config("paper"))]
    )
    run = VisualCotRun((root / "benchmark",), root, configs, limit=1, max_new_tokens=8)
    samples = run.samples()
    model = PruneVidQwen25VL.from_pretrained("bundled")
    found = {(line["set"], line["config"]): line for line in run.answers(list(run.tasks(samples)), here(0))}
    assert len(found) == 2 * 4
    assert [found["shapes", name]["tokens"]["visual"] for name, _ in configs] == [16, 16, 4, 16]
    for sample in samples:
        for name, config in configs:
            alone = model.with_config(config).generate(
                images=str(image_path(sample, root)), question=sample.question, max_new_tokens=8, return_stats=True,
                **GREEDY,
            )  # fmt: skip
            line, stats = found[sample.set, name], alone["stats"]
            assert line["raw"].strip() == alone["answer"]
            assert {part: line["tokens"][part] for part in stats["tokens"]} == stats["tokens"]
            assert line["tokens"]["generated"] == stats["generated_tokens"]


def test_questions_about_one_image_share_it_and_configs_with_other_sizes_do_not(root: Path) -> None:
    run = VisualCotRun((root / "benchmark",), root, (("a", PruneVidConfig()), ("b", get_config("baseline"))))
    samples = run.samples()
    tasks = list(run.tasks(samples))
    assert [len(task.questions) for task in tasks] == [2, 2, 2, 2]  # four images of two questions
    assert all(names == ("a", "b") for task in tasks for _, names in task.questions)
    other = VisualCotRun(run.data, root, (*run.configs, ("c", PruneVidConfig(max_pixels=12544))))
    tasks = list(other.tasks(samples))
    assert [(task.questions[0][0].id, task.questions[0][1]) for task in tasks[:4]] == [
        ("colors/0", ("a", "b")), ("colors/0", ("c",)), ("colors/1", ("a", "b")), ("colors/1", ("c",)),
    ]  # fmt: skip
    assert [task.media[0].max_pixels for task in tasks[:2]] == [None, 12544]


def test_a_model_that_the_library_reads_for_answers_too(root: Path, tmp_path: Path) -> None:
    model = save_llava(tmp_path / "model")
    (root / "drawn" / "text.png").write_text("no image")
    records = [{"question": "what color is the circle ?", "answer": "red", "image": f"{name}.png", "dataset": "drawn"}
               for name in ("0", "text")]  # fmt: skip
    (tmp_path / "set.json").write_text(json.dumps(records))
    words = ["--data", str(tmp_path / "set.json"), "--images", str(root), "--max_new_tokens", "4"]
    words += ["--model_path", str(model), "--config", "fastv", "--out", str(tmp_path / "run")]
    assert main(["eval", "visual-cot", *words]) == 0
    written = lines(tmp_path / "run")
    assert [(line["config"], line["error"] is None) for line in written] == [
        ("baseline", True), ("fastv", True), ("baseline", False), ("fastv", False),
    ]  # fmt: skip
    assert all(set(line) == LINE for line in written)
    assert [line["kept_ratio"] for line in written[:2]] == [1, 0.5] and written[1]["generated_tokens"] == 4
    assert all(0 < line["seconds"]["first_token"] <= line["seconds"]["total"] for line in written[:2])
