"""The Ray engine on a cluster of two CPUs: the local engine's lines, whatever dies; errors as themselves.

Its processes take seconds to start: one smoke test is in `make test`, whatever else needs a cluster is nightly.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.cli.ask import bundled_clip
from prunevid_qwen.config import get_config
from prunevid_qwen.errors import PruningNotApplied
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.answering import Answering
from prunevid_qwen.evaluation.engine.local import run_here
from prunevid_qwen.evaluation.engine.ray_cluster import Cluster, joined
from prunevid_qwen.evaluation.engine.task import Line, Task, TaskQuestion
from prunevid_qwen.evaluation.engine.task_media import ByConfig, Read, ReadMedia
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.loading import bundled_model
from tests.media import encode
from tests.patience import PATIENCE
from tests.shapes_benchmark import shapes_mvbench

ray = pytest.importorskip("ray", reason="the Ray engine needs the extra [ray]")
from prunevid_qwen.evaluation.engine.ray_data import (  # noqa: E402
    TRIES,
    Tries,
    _installed,
    _read,
    _Replica,
    _try,
    run_on_ray,
)

CONFIGS = (("baseline", get_config("baseline")), ("paper", get_config("paper")))
ANSWERING = Answering(CONFIGS, generation={"max_new_tokens": 4})


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@dataclass(frozen=True)
class Asked(TaskQuestion):
    id: str
    text: str

    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[ReadMedia]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [*items, {"type": "text", "text": self.text}]}]

    def about(self) -> Line:
        return {"id": self.id, "text": self.text}


def once(mark: Path) -> bool:
    """Whether nobody, in any process, was here before."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Reading:
    """Reads as `ask` does; dies once of media whose name holds a word, and is not to read those of another."""

    marks: Path
    once: str = "nothing"
    never: str = "nothing"

    def read(self, media: Media) -> ReadMedia:
        name = Path(media.path).name
        assert self.never not in name
        if self.once in name and once(self.marks / f"once {name}"):
            die()
        reader = MediaReader.from_pretrained(bundled_model())
        return ByConfig(CONFIGS[0][1], reader.video, reader.image).read(media)


class DiesOnce:
    """Answers, but dies with the second task that it is given, and with a first line of it made."""

    def __init__(self, answerer: Any, mark: Path) -> None:
        self.answerer, self.mark, self.tasks = answerer, mark, 0

    def answer(self, task: Task, read: Read) -> Iterator[Line]:
        self.tasks += 1
        for line in self.answerer.answer(task, read):
            if self.tasks == 2 and once(self.mark):
                die()
            yield line


class Echo:
    """Answers without a model; one question makes it raise something, or die."""

    def __init__(self, fault: Exception | None, by: str) -> None:
        self.fault, self.by = fault, by

    def answer(self, task: Task, read: Read) -> Iterator[Line]:
        for question, names in task.questions:
            if read.error is None and question.id == self.by:
                if self.fault is not None:
                    raise self.fault
                die()
            yield from ({**question.about(), "config": name, "error": read.error, "pid": os.getpid()} for name in names)


@dataclass(frozen=True)
class Fake(Answering):
    """Who answers is what `make` returns in the process that answers."""

    make: Callable[[], Any] = field(default=lambda: Echo(None, ""))

    def load(self) -> Any:
        return self.make()


def eventually(true: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Whether something of another process comes true: Ray tells nobody when a process of its is gone."""
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.05)
    return true()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    """Six tasks, nine questions: clips that differ, a broken one, a missing one."""
    root = tmp_path_factory.mktemp("media")
    for name, size in (("a.mp4", (56, 84)), ("b.mp4", (84, 56)), ("c.mp4", (56, 56))):
        encode(root / name, frames=10, rate=5, size=size, options={"preset": "ultrafast"})
    (root / "broken.mp4").write_bytes((root / "a.mp4").read_bytes()[:600])
    names = tuple(name for name, _ in CONFIGS)
    paths = [bundled_clip()[0], *(str(root / name) for name in ("a.mp4", "b.mp4", "broken.mp4", "c.mp4", "none.mp4"))]
    made = []
    for number, path in enumerate(paths):
        texts = [bundled_clip()[1], "How many objects are there?"][: 1 + (number < 3)]
        asked = tuple((Asked(f"{number}.{place}", text), names) for place, text in enumerate(texts))
        made.append(Task((Media("video", path),), asked))
    return made


def timeless(lines: Iterable[Line]) -> list[Line]:
    """What lines say, as they are stored, in an order of their own."""
    plain = [json.loads(json.dumps({**line, "seconds": None})) for line in lines]
    return sorted(plain, key=lambda line: (line["id"], line["config"]))


@pytest.fixture(scope="module")
def local(tasks: list[Task], tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    return timeless(run_here(tasks, Reading(tmp_path_factory.mktemp("marks")), ANSWERING.load().answer, 0))


@pytest.mark.nightly
def test_lines_are_those_of_the_local_engine(
    cluster: None, tasks: list[Task], local: list[Line], tmp_path: Path
) -> None:
    whole, broken = tasks[0], tasks[3]
    lines = timeless(run_on_ray([whole, broken], Reading(tmp_path), ANSWERING))
    assert lines == [line for line in local if line["id"].partition(".")[0] in ("0", "3")]
    assert [line["error"] is None for line in lines] == [True] * 4 + [False] * 2


@pytest.mark.nightly
def test_lines_are_those_of_the_local_engine_though_a_reader_and_a_model_are_killed(
    cluster: None, tasks: list[Task], local: list[Line], tmp_path: Path
) -> None:
    dying = Fake(CONFIGS, make=lambda: DiesOnce(ANSWERING.load(), tmp_path / "model"))
    lines = list(run_on_ray(tasks, Reading(tmp_path, once="b.mp4"), dying))
    assert (tmp_path / "once b.mp4").exists() and (tmp_path / "model").exists()
    assert len(lines) == sum(task.answers for task in tasks) == 18
    assert timeless(lines) == local
    assert {line["id"] for line in lines if line["error"] is not None} == {"3.0", "5.0"}
    assert next(line["raw"] for line in lines if line["id"] == "0.0") == bundled_clip()[2]


@pytest.mark.nightly
def test_a_task_that_processes_died_of_is_an_error_of_its_questions(
    cluster: None, tasks: list[Task], tmp_path: Path
) -> None:
    dumps, loads, tries = ray.cloudpickle.dumps, ray.cloudpickle.loads, ray.remote(num_cpus=0)(Tries).remote()
    shared: dict[str, Any] = {"tries": tries, "same": _installed()}
    model = _Replica(dumps(Fake(CONFIGS)), False, **shared)

    def answered(number: int) -> list[Line]:
        row = {"number": number, "task": dumps(tasks[number])}
        made = model(_read(row, dumps(Reading(tmp_path, never="b.mp4")), **shared))
        assert made["fault"] is None and made["number"] == number
        return json.loads(made["made"])

    for _ in range(TRIES):
        ray.get([tries.begin.remote("reading 2"), tries.begin.remote("answering 1")])
    assert [line["error"] for line in answered(0)] == [None] * 4
    for number, said in ((1, "a.mp4 was asked about: out of"), (2, "b.mp4 was read: out of memory")):
        lines = answered(number)
        assert {(line["id"], line["config"]) for line in lines} == {
            (f"{number}.{place}", name) for place in range(2) for name, _ in CONFIGS
        }
        assert all(line["error"].startswith(f"{TRIES} processes died") and said in line["error"] for line in lines)
    assert (
        loads(_read({"number": 0, "task": dumps(tasks[0])}, dumps(Reading(tmp_path)), **shared)["read"]).error is None
    )


@pytest.mark.nightly
def test_batch_answers_on_ray_as_here_and_names_a_config_that_does_not_fit(
    cluster: None, tmp_path: Path, capsys: Any
) -> None:
    clip, question, answer = bundled_clip()
    asked = [{"id": "clip", "video": clip, "question": question}, {"id": "none", "video": "no.mp4", "question": "?"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    words = ["batch", str(tmp_path / "q.jsonl"), "--max_new_tokens", "4", "--out"]
    assert main([*words, str(tmp_path / "bad.jsonl"), "--engine", "ray", "--pruning_layer", "99"]) == 2
    said = capsys.readouterr().err
    assert "error: " in said and "pruning_layer=99" in said and "Traceback" not in said and "ray::" not in said
    assert main([*words, str(tmp_path / "ray.jsonl"), "--engine", "ray"]) == 4
    assert main([*words, str(tmp_path / "here.jsonl"), "--workers", "0"]) == 4
    there, here = (
        timeless(map(json.loads, (tmp_path / name).read_text().splitlines())) for name in ("ray.jsonl", "here.jsonl")
    )
    assert there[0]["answer"] == answer and there[0]["run"] == here[0]["run"]
    assert there[0] == here[0] and there[1]["error"].startswith(f"no video at {tmp_path / 'no.mp4'}")


@pytest.mark.nightly
def test_an_error_among_the_answers_is_raised_as_itself_and_models_are_let_go(
    cluster: None, tasks: list[Task], tmp_path: Path
) -> None:
    failing = Fake(CONFIGS, make=lambda: Echo(PruningNotApplied("not pruned"), "4.0"))
    engine = run_on_ray(tasks, Reading(tmp_path), failing)
    with pytest.raises(PruningNotApplied, match=r"^not pruned$") as raised:
        lines = [next(engine)]
        lines.extend(engine)
    assert "Traceback" in str(raised.value.__cause__)  # for whoever asks with --verbose
    assert ray.is_initialized()  # it was not started by the run
    model = Path(f"/proc/{lines[0]['pid']}")
    assert lines[0]["pid"] != os.getpid() and eventually(lambda: not model.exists())


@pytest.mark.nightly
def test_only_work_that_did_not_end_is_counted(cluster: None) -> None:
    tries = ray.remote(num_cpus=0)(Tries).remote()
    for _ in range(TRIES + 1):  # the machine that had the result can be lost, and all is done again
        with _try(tries, "reading 1") as may:
            assert may
    for before in range(TRIES):
        assert ray.get(tries.begin.remote("reading 2")) == before
    with _try(tries, "reading 2") as may:
        assert not may


@pytest.mark.nightly
def test_a_cluster_that_is_there_is_taken_and_left(cluster: None) -> None:
    with joined("192.0.2.1:6379") as cluster:  # an address is for whoever belongs to none yet
        assert cluster == Cluster(2.0, 0, 2.0)
    assert ray.is_initialized()


@pytest.mark.nightly
def test_a_benchmark_changes_its_engine_half_way_and_its_tables_do_not_show_it(cluster: None, tmp_path: Path) -> None:
    data = shapes_mvbench(tmp_path / "data", videos=2, questions=2)
    words = ["eval", "run", "--dataset", "mvbench", "--data", str(data), "--protocol", "mvbench_videochat2"]
    words += ["--frames", "4", "--min_pixels", "784", "--max_pixels", "12544", "--max_new_tokens", "4"]
    whole, mixed = str(tmp_path / "whole"), str(tmp_path / "mixed")
    assert main([*words, "--out", whole, "--workers", "0"]) == 0
    assert main([*words, "--out", mixed, "--workers", "0", "--limit", "6"]) == 0
    assert main([*words, "--out", mixed, "--engine", "ray"]) == 0
    for name in ("report.md", "summary.csv", "summary.json"):
        assert (tmp_path / "mixed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len((tmp_path / "mixed" / "answers.jsonl").read_text().splitlines()) == 24
