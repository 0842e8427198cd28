"""What a benchmark run refuses, and what makes it another run."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import av
import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.config import get_config
from prunevid_qwen.evaluation.datasets import Subtitle, read_dataset
from prunevid_qwen.evaluation.protocol.protocol import protocol_for
from prunevid_qwen.evaluation.protocol.score_summary import Manifest
from prunevid_qwen.evaluation.store.identity import digest, model_fingerprint
from prunevid_qwen.evaluation.tasks.runs import BenchmarkRun
from tests.benchmark_runs import DOZEN, run

# ---- refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--frames", "16"), "protocol: frames was 8, is now 16"),
        (("--compare", "baseline,paper+keep_ratio=0.1+tau=0.5,paper+keep_ratio=0.1"), None),
        (("--protocol", "lmms"), "protocol: prompt was 'videochat2', is now 'lmms'"),
        (("--dtype", "bfloat16"), "loading: dtype was None, is now 'bfloat16'"),
    ],
)
def test_another_run_does_not_go_into_the_same_folder(
    dozen: Path,
    stubbed: Path,
    stub: None,
    tmp_path: Path,
    words: tuple[str, ...],
    said: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Path(shutil.copytree(stubbed, tmp_path / "run"))
    code = run(dozen, out, *DOZEN, *words)
    assert code == (0 if said is None else 2)
    assert said is None or said in capsys.readouterr().err


def test_frames_of_another_decoder_do_not_go_into_the_same_folder(
    dozen: Path, stubbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(stubbed, tmp_path / "run"))
    monkeypatch.setattr(av, "__version__", "1.0")
    assert run(dozen, out, *DOZEN) == 2
    assert re.search(r"reader: pyav was '[\d.]+', is now '1\.0'", capsys.readouterr().err)


def test_another_kind_of_run_has_no_tables_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text('{"what": "questions of a user", "configs": {"paper": {}}}')
    for words in (("tables", str(tmp_path)), ("export", str(tmp_path))):
        assert main(["eval", *words]) == 2
        assert "holds another kind of run (questions of a user): give the folder" in capsys.readouterr().err


def test_media_are_named_whole_wherever_a_worker_runs(dozen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(dozen.parent)
    asked = BenchmarkRun("mvbench", Path(dozen.name), protocol_for("mvbench"), (("paper", get_config("paper")),))
    paths = {media.path for record in asked.read().records for media in record.media}
    assert paths and all(path.startswith(f"{dozen}/") for path in paths)


def test_all_that_could_change_an_answer_is_named_and_where_videos_lie_is_not(dozen: Path) -> None:
    asked = BenchmarkRun("mvbench", dozen, protocol_for("mvbench"), (("paper", get_config("paper")),), device="cuda:1")
    data = asked.read()
    first, (media,) = data.records[0], data.records[0].media
    others = [
        first,
        replace(first, question="Another?"),
        replace(first, options=(*first.options[::-1],)),
        replace(first, answer="A" if first.answer != "A" else "B"),
        replace(first, groups={"task": "another"}),
        *(
            replace(first, media=(replace(media, **change),))
            for change in ({"start": 1.0}, {"end": 1.0}, {"fps": 3.0}, {"subtitles": (Subtitle(0.0, 1.0, "said"),)})
        ),
    ]
    found = [asked.options(replace(data, records=(each, *data.records[1:]))) for each in others]
    assert len({each["questions"] for each in found}) == len(others)
    moved = replace(first, media=(replace(media, path="/elsewhere/clip.mp4"),))
    assert asked.options(replace(data, records=(moved, *data.records[1:]))) == found[0]
    assert found[0]["device"] == "cuda" and found[0]["reader: pillow"]


def test_one_hidden_answer_does_not_hide_the_others(dozen: Path) -> None:
    data = read_dataset("mvbench", dozen)
    counted = Manifest.of([replace(data.records[0], answer=None), *data.records[1:]], data.name, data.by, None)
    assert (counted.samples, counted.hidden) == (5, 1)


def test_what_a_config_says_of_reading_and_a_protocol_of_the_answer_is_heeded(dozen: Path) -> None:
    config = get_config("paper").replace(video_backend="decord", video_time_limit=7.0)
    asked = BenchmarkRun("mvbench", dozen, protocol_for("mvbench", max_new_tokens=3), (("paper", config),))
    assert (asked.reading().backend, asked.reading().time_limit) == ("decord", 7.0)
    assert asked.answering().generation == {"max_new_tokens": 3}


def test_hidden_files_beside_the_weights_are_no_other_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_text("weights")
    before = digest(tmp_path)
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "model.bin.metadata").write_text("when it was downloaded")
    assert digest(tmp_path) == before == model_fingerprint(str(tmp_path), {})
    (tmp_path / "model.bin").write_text("others")
    assert digest(tmp_path) != before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config", "paper", "--compare", "paper,baseline"), "say the same thing twice"),
        (("--compare", "baseline+keep_ratio=1"), "nothing of it can be changed"),
        (("--compare", "paper+keep_ratio"), "a change is NAME+OPTION=VALUE"),
        (("--compare", "paper+fps=3"), "the protocol says how videos are read"),
        (("--compare", "paper+nonsense=3"), "no option 'nonsense' of pruning"),
        (("--compare", "paper,paper"), "two configs are called 'paper'"),
        (("--config", "paper", "--keep_ratio", "25"), "did you mean 0.25?"),
        (("--protocol", "mlvu"), "protocol 'mlvu' is not for mvbench"),
        (("--frames", "many"), "frames is a whole number"),
        (("--fps", "1"), "fps would change nothing: sampler 'linspace' of protocol 'lmms' takes 32 frames"),
        (("--min_frames", "4", "--fps", "1"), "fps and min_frames would change nothing"),
        (("--shard", "0/2", "--restart"), "restart throws away the answers of all 2 shares"),
        (("--shard", "2/2"), "shard is I/N"),
        (("--engine", "slurm"), "engine is one of local, ray"),
        (("--replicas", "2"), "for --engine ray"),
        (
            ("--compare", "paper,paper+video_time_limit=5"),
            "configs that share decoded videos have one video_time_limit",
        ),
        (("--compare", "paper,paper+video_backend=decord"), "configs that share decoded videos have one video_backend"),
    ],
)
def test_contradictions_are_refused_before_anything_runs(
    dozen: Path, tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dozen, tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_config_file_that_says_how_videos_are_read_is_refused(
    dozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get_config("paper").replace(max_frames=64).to_json(tmp_path / "long.json")
    assert run(dozen, tmp_path / "out", "--config", str(tmp_path / "long.json")) == 2
    assert "sets max_frames=64" in (said := capsys.readouterr().err) and "pass frames beside it" in said


def test_a_misspelt_data_set_is_offered_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tmp_path / "out", dataset="mvbenhc") == 2
    assert "did you mean mvbench?" in capsys.readouterr().err
