"""Visual-CoT style sets (Shao et al., arXiv 2403.16999): free answers to questions about single images, kept raw.

The benchmark's files hold ``image`` (a path, or a list with one that has a box) and ``conversations``: the first human
turn is the question, the last model turn the reference. Others hold ``question, answer, image, dataset``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import BUNDLED
from prunevid_qwen.config import ALL_OFF, PruneVidConfig
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation import store
from prunevid_qwen.evaluation.datasets.annotations import json_lines, json_list
from prunevid_qwen.evaluation.datasets.check import damage
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.answering import Answering, NamedConfigs
from prunevid_qwen.evaluation.engine.local import Engine, here
from prunevid_qwen.evaluation.engine.storing import TABLES, Progress, answers_of, store_answers
from prunevid_qwen.evaluation.engine.task import Line, Task, TaskQuestion, left_of
from prunevid_qwen.evaluation.engine.task_media import LimitedImage, ReadMedia, media_wanted
from prunevid_qwen.evaluation.protocol.score_summary import BASELINE
from prunevid_qwen.evaluation.tasks.judge import JUDGEMENTS
from prunevid_qwen.evaluation.tasks.runs import spread
from prunevid_qwen.loading import choose_device

MAX_NEW_TOKENS = 1024  # as in GlimpsePrune's evaluation
BRIEF = "Answer the question using a single word or phrase."  # as LLaVA-1.5, and GlimpsePrune on request
_FIRST_TOKEN = ("read", "vision", "merge", "select", "compact", "prefill")
_TOKENS = ("visual", "after_stage1", "after_stage2", "layer_average")
# what the benchmark's files append to every question; a model that is asked for the answer alone must not see it
BOX_REQUEST = "Please provide the bounding box coordinate of the region that can help you answer the question better."


@dataclass(frozen=True)
class Sample(TaskQuestion):
    """One question about one image; what a record lacks is empty here, and `problems` names it."""

    set: str  # name of the file it stands in, without the suffix: a row of the table
    number: int  # position in that file, from 0
    image: str  # path as the record has it
    question: str  # without placeholder and request for a box
    answer: str  # the reference
    dataset: str = ""  # where the image comes from ("v7w", "docvqa"): the folder of its images
    suffix: str = ""  # asked on a line of its own behind the question
    error: str | None = None  # why it cannot be asked

    @property
    def id(self) -> str:  # type: ignore[override]
        """Set and position, such as "gqa/17"."""
        return f"{self.set}/{self.number}"

    @property
    def text(self) -> str:
        """The question, suffix included."""
        return f"{self.question}\n{self.suffix}" if self.suffix else self.question

    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[ReadMedia]) -> list[dict[str, Any]]:
        """Write the question behind its image."""
        return [{"role": "user", "content": [*items, {"type": "text", "text": self.text}]}]

    def about(self) -> Line:
        """Return what a line says of the sample."""
        shown = {"image": self.image, "question": self.question, "reference": self.answer}
        return {"set": self.set, "id": self.number, **shown}


def data_files(given: Sequence[Path]) -> list[Path]:
    """List the files that are meant, a folder's ``*.json`` and ``*.jsonl``, or raise: none, or two of one name."""
    found: dict[Path, None] = {}
    for path in given:
        inside = [path] if path.is_file() else sorted(e for e in path.glob("*") if e.suffix in (".json", ".jsonl"))
        if not inside:
            raise MediaError(f"no data at {path}: --data takes a file, or a folder that holds .json or .jsonl files")
        found |= dict.fromkeys(inside)
    if not found:
        raise ConfigError("nothing to ask: pass --data FILE, or the folder of the sets")
    for path, other in combinations(found, 2):
        if path.stem == other.stem:
            raise ConfigError(f"{path} and {other} would both be the set {path.stem!r}: rename one of them")
    return list(found)


def read_samples(path: Path) -> list[Sample]:
    """Read the samples of a file, a JSON list or an object a line; a `ConfigError` says what it is instead."""
    is_list = path.read_text(encoding="utf-8").lstrip().startswith("[")
    records = json_list(path) if is_list else json_lines(path)
    if not records:
        raise ConfigError(f"{path} holds no records: expected a list of them, or one a line")
    return [_sample(path, number, record) for number, record in enumerate(records)]


def _sample(path: Path, number: int, record: Any) -> Sample:
    keys = record.keys() if isinstance(record, dict) else ()
    if "conversations" in keys:
        said = [(turn.get("from"), _text(turn.get("value"))) for turn in record["conversations"]]
        question = next((text for who, text in said if who == "human"), "")
        answer = next((text for who, text in reversed(said) if who == "gpt"), "")
    elif "question" in keys:
        question, answer = _text(record["question"]), _text(record.get("answer"))
    else:
        raise ConfigError(
            f"{path}, record {number} ({', '.join(keys) or type(record).__name__}) is of no known form: expected "
            "image, question, answer; or image, conversations"
        )
    image = record.get("image") or ""
    image = image if isinstance(image, str) else image[0]  # the second is the same with a box
    question = question.replace("<image>", "").strip().removesuffix(BOX_REQUEST).strip()
    return Sample(path.stem, number, _text(image).partition("###")[0], question, answer, _text(record.get("dataset")))


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def image_path(sample: Sample, root: Path) -> Path:
    """Find the image of a sample under the root; a `MediaError` says where it is not, or what its record lacks."""
    needed = {"no question": sample.question, "no reference answer": sample.answer, "no image": sample.image}
    for lacks, text in needed.items():
        if not text:
            raise MediaError(f"{sample.id} has {lacks}")
    places = [root / sample.image, root / sample.dataset / sample.image, root / sample.image.removeprefix("cot/")]
    for place in places:
        if place.is_file():
            return place
    tried = " or ".join(map(str, dict.fromkeys(places)))
    raise MediaError(f"no image of {sample.id} at {tried}: is --images the right folder?")


def problems(
    samples: Sequence[Sample], root: Path, decode: bool = False, tell: Progress = lambda *_: None
) -> Iterator[str]:
    """Say what is wrong with samples, a sentence each; ``decode`` reads every pixel, which takes minutes."""
    seen: dict[Path, tuple[str, str] | None] = {}
    for number, sample in enumerate(samples, 1):
        try:
            path = image_path(sample, root)
            if path not in seen:
                seen[path] = damage("image", path, decode)
            if found := seen[path]:
                yield f"{sample.id}: {path}: {found[1]}"
        except MediaError as error:
            yield str(error)
        tell("checking", number, len(samples))


# ---- the run


@dataclass(frozen=True)
class VisualCotRun:
    """What a run asks, and whom; ``model_path``, ``loading`` and ``plugins`` are those of `Answering`."""

    data: tuple[Path, ...]  # files, or folders of files: a set each
    images: Path  # folder under which the records' image paths lie
    configs: NamedConfigs  # from `competitors`
    limit: int | None = None  # samples of each set, equally spaced; None takes all
    suffix: str = ""  # behind every question
    max_new_tokens: int = MAX_NEW_TOKENS  # of the longest answer
    model_path: str = BUNDLED
    loading: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    def samples(self) -> list[Sample]:
        """Read what is asked, or raise as `data_files` and `read_samples`."""
        if not self.images.is_dir():
            raise ConfigError(f"no folder of images at {self.images}: --images is what the records' paths start from")
        return [sample for path in data_files(self.data) for sample in spread(read_samples(path), self.limit)]

    def tasks(self, samples: Sequence[Sample]) -> Iterator[Task]:
        """Yield what is asked: all configs about one sample before the next; neighbours of one image share it."""
        steps: list[tuple[tuple[Media, ...], tuple[TaskQuestion, tuple[str, ...]]]] = []
        for sample in samples:
            question, path = replace(sample, suffix=self.suffix), None
            try:
                path = image_path(sample, self.images).absolute()  # other processes stand in other folders
            except MediaError as error:
                question = replace(question, error=str(error))
            for limit, same in groupby(self.configs, key=lambda each: each[1].max_pixels):
                media = () if path is None else (LimitedImage("image", str(path), max_pixels=limit),)
                steps.append((media, (question, tuple(name for name, _ in same))))
        for media, own in groupby(steps, key=lambda step: step[0]):
            yield Task(media, tuple(asked for _, asked in own))

    def answers(self, tasks: Sequence[Task], engine: Engine) -> Generator[Line, None, None]:
        """Answer tasks; a model is loaded if there is an image to show it."""
        # an image is one chunk, whatever a config says of a video's
        configs = tuple((name, config.replace(vision_chunk_tokens=None)) for name, config in self.configs)
        limit = {"max_new_tokens": self.max_new_tokens}
        answering = Answering(configs, self.model_path, self.loading, limit, self.plugins)
        if not any(task.media for task in tasks):  # no image, no model
            return _unasked(tasks)
        wanted = media_wanted(self.model_path, self.loading)
        wanted.check_shown(media for task in tasks for media in task.media)
        for _, config in configs:
            wanted.by_config(config)
        return engine(tasks, wanted.by_config(PruneVidConfig()), answering)

    def options(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return what two runs must share, flat. Images count by their paths: whoever adds missing ones goes on."""
        options: dict[str, Any] = {"sets": list(dict.fromkeys(sample.set for sample in samples))}
        for name in options["sets"]:
            own = [asdict(sample) for sample in samples if sample.set == name]
            options[f"records of {name}"] = f"{len(own)} records, {store.digest_of(own)}"
        options |= {"suffix": self.suffix, "max_new_tokens": self.max_new_tokens}
        options |= store.model_options(self.model_path, self.loading, choose_device(self.loading.get("device")))
        options["configs"] = [name for name, _ in self.configs]
        for name, config in self.configs:
            options |= {f"{name}: {option}": value for option, value in store.config_options(config).items()}
        return options | store.plugin_options(self.plugins)


def competitors(given: Sequence[tuple[str, PruneVidConfig]], with_baseline: bool = True) -> NamedConfigs:
    """Return the configs of a run, the baseline first: the first other config, read alike, with all stages off.

    One called "baseline" only says that it is wanted. Nothing to run, or two of one name, is a `ConfigError`.
    """
    others = tuple((name, config) for name, config in given if name != BASELINE)
    names = [name for name, _ in given]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two configs are called {twice[0]!r}: their answers could not be told apart")
    if with_baseline or len(others) < len(given):
        like = next((config for _, config in (*others, *given)), PruneVidConfig())
        return ((BASELINE, like.replace(**ALL_OFF)), *others)
    if not others:
        raise ConfigError("no config to run: name one, or leave out --no_baseline")
    return others


def answer_run(
    folder: Path,
    run: VisualCotRun,
    samples: list[Sample],
    restart: bool = False,
    tell: Progress = lambda *_: None,
    command: str = "",
) -> None:
    """Answer what the folder does not hold yet, in this process, and what failed; else as `runs.answer_benchmark`."""
    options = run.options(samples)
    about = {
        "what": "questions about single images, with and without pruning",
        "command": command,
        "samples": {name: sum(sample.set == name for sample in samples) for name in options["sets"]},
        "configs": {name: config.flat() for name, config in run.configs},
        "options_sha256": store.digest_of(options).removeprefix("sha256 "),
    }
    path = answers_of(folder)
    store.RunFolder(folder, (path.name, JUDGEMENTS, *TABLES)).begin(options, about, restart)
    kept = store.keep_lines(path, lambda line: line["error"] is None)
    tasks = left_of(run.tasks(samples), {(line["config"], f"{line['set']}/{line['id']}") for line in kept})
    store_answers(path, tasks, lambda: run.answers(tasks, here(0)), len(samples) * len(run.configs), tell, _stored)


def _stored(line: Line) -> Line:
    stored = {name: line[name] for name in ("set", "id", "config", "image", "question", "reference")}
    stored |= dict.fromkeys(("answer", "tokens", "kept_ratio", "generated_tokens", "seconds"))
    if line["error"] is None:
        spent = line["seconds"]  # without the vision tower where it encodes an image once for all configs
        reached = sum(spent.get(part, 0.0) for part in _FIRST_TOKEN)
        stored |= {
            "answer": line["raw"].strip(),
            "tokens": {name: line["tokens"][name] for name in _TOKENS},
            "kept_ratio": line["kept_ratio"],
            "generated_tokens": line["tokens"]["generated"],
            "seconds": {"first_token": reached, "total": spent["total"] + spent["read"]},
        }
    return {**stored, "error": line["error"]}


def _unasked(tasks: Iterable[Task]) -> Generator[Line, None, None]:
    for question, names in (asked for task in tasks for asked in task.questions):
        for name in names:
            yield {**question.about(), "config": name, "error": question.error, "raw": None}
