"""Visual-CoT style sets, answered by an engine: free answers to questions about single images, kept raw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.config import ALL_OFF, PruneVidConfig
from prunevid_qwen.errors import ConfigError, MediaError, UnsupportedError
from prunevid_qwen.evaluation import store
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.answering import GREEDY, Answering, NamedConfigs
from prunevid_qwen.evaluation.engine.local import Engine, here
from prunevid_qwen.evaluation.engine.storing import TABLES, Progress, answers_of, store_answers
from prunevid_qwen.evaluation.engine.task import Line, Task, TaskQuestion, left_of
from prunevid_qwen.evaluation.engine.task_media import ByConfig, LimitedImage, media_reader
from prunevid_qwen.evaluation.protocol.score_summary import BASELINE
from prunevid_qwen.evaluation.tasks.judge import JUDGEMENTS
from prunevid_qwen.evaluation.tasks.runs import spread
from prunevid_qwen.evaluation.tasks.visual_cot_records import Sample, data_files, image_path, read_samples
from prunevid_qwen.loading import choose_device
from prunevid_qwen.model import PruneVidQwen25VL

MAX_NEW_TOKENS = 1024
"""The limit in GlimpsePrune's evaluation."""

BRIEF = "Answer the question using a single word or phrase."
"""What LLaVA-1.5 made usual for short answers, and GlimpsePrune appends on request."""

_FIRST_TOKEN = ("read", "merge", "select", "compact", "prefill")


@dataclass(frozen=True)
class VisualCotRun:
    """What a run asks, and whom; ``model_path``, ``loading`` and ``plugins`` are those of `Answering`."""

    data: tuple[Path, ...]  # files, or folders of files: a set each
    images: Path  # folder under which the records' image paths lie
    configs: NamedConfigs  # from `competitors`
    limit: int | None = None  # samples of each set, equally spaced; None takes all
    suffix: str = ""  # behind every question
    max_new_tokens: int = MAX_NEW_TOKENS  # of the longest answer
    model_path: str = "bundled"
    loading: dict[str, Any] = field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    def samples(self) -> list[Sample]:
        """Read what is asked; raises as `data_files` and `read_samples`."""
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
        try:
            media = media_reader(self.model_path, self.loading)
        except UnsupportedError:  # a model whose inputs the library makes, or one that is refused when it is loaded
            return _by_library(tasks, answering)
        if not any(task.media for task in tasks):
            return _by_library(tasks, answering)
        return engine(tasks, ByConfig(PruneVidConfig(), media.video, media.image), answering)

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
    """Return the configs of a run, the baseline first; one called "baseline" only says that it is wanted.

    It is the first other config with all stages off, which reads images in the same way. A `ConfigError` says that
    there is nothing to run, or two of one name.
    """
    others = tuple((name, config) for name, config in given if name != BASELINE)
    for name, count in Counter(name for name, _ in given).items():
        if count > 1:
            raise ConfigError(f"two configs are called {name!r}: their answers could not be told apart")
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
    """Answer what the folder does not hold yet, in this process; what failed before is tried again.

    ``restart`` throws away what the folder holds, judgements too. Raises as `runs.answer_benchmark`.
    """
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
        spent = line["seconds"]  # of an engine without the vision tower, which encodes an image once for all configs
        reached = spent.get("first_token") or sum(spent[part] for part in _FIRST_TOKEN)
        counts = ("visual", "after_stage1", "after_stage2", "layer_average")
        stored |= {
            "answer": line["raw"].strip(),
            "tokens": {name: line["tokens"][name] for name in counts},
            "kept_ratio": line["kept_ratio"],
            "generated_tokens": line["tokens"]["generated"],
            "seconds": {"first_token": reached, "total": spent["total"] + spent["read"]},
        }
    return {**stored, "error": line["error"]}


def _by_library(tasks: Iterable[Task], answering: Answering) -> Generator[Line, None, None]:
    """Answer as an engine does, with a model whose inputs the library's processor makes, loaded for the first image."""
    under: dict[str, PruneVidQwen25VL] = {}
    given = {**GREEDY, **answering.generation, "return_stats": True}
    for task in tasks:
        if task.media and not under:
            loading = {name: value for name, value in answering.loading.items() if value is not None}
            model = PruneVidQwen25VL.from_pretrained(answering.model_path, config=answering.configs[0][1], **loading)
            under = {name: model.with_config(config) for name, config in answering.configs}
        for question, name in ((question, name) for question, names in task.questions for name in names):
            assert isinstance(question, Sample)
            line = {**question.about(), "config": name, "error": question.error}
            try:
                for image in task.media:
                    said = under[name].generate(images=image.path, question=question.text, **given)
                    tokens, seconds = said["stats"]["tokens"], said["stats"]["seconds"]
                    generated = {"generated": said["stats"]["generated_tokens"]}
                    line |= {"raw": said["answer"], "kept_ratio": tokens["after_stage2"] / tokens["visual"]}
                    line |= {"tokens": {**tokens, **generated}, "seconds": {**seconds, "read": 0.0}}  # "total" has it
            except MediaError as error:  # of one sample: the others can still be asked, and coverage says so
                line["error"] = str(error)
            except torch.OutOfMemoryError:
                line["error"] = "out of GPU memory"
            yield line
