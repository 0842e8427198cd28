"""A Visual-CoT run from beginning to end: read, check, answer, judge, report; each step goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.accuracy_folder import ANSWERS
from prunevid_qwen.evaluation.visual_cot.answering import MAX_NEW_TOKENS, answer_all
from prunevid_qwen.evaluation.visual_cot.configs import NamedConfigs
from prunevid_qwen.evaluation.visual_cot.folder import open_folder, whole_lines
from prunevid_qwen.evaluation.visual_cot.identity import options_of
from prunevid_qwen.evaluation.visual_cot.judge import Judge
from prunevid_qwen.evaluation.visual_cot.judging import judge_all
from prunevid_qwen.evaluation.visual_cot.records import Sample, data_files, read_samples
from prunevid_qwen.evaluation.visual_cot.report import write_report

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class VisualCotRun:
    """What a run asks, and whom.

    Args:
        data: files, or folders of files: a set each.
        images: folder under which the records' image paths lie.
        configs: from `configs.competitors`.
        limit: samples of each set, from its beginning; None takes all.
        suffix: behind every question; "" is none.
        max_new_tokens: of the longest answer.
        model_path: "bundled", a folder or a hub id.
        loading: arguments of ``PruneVidQwen25VL.from_pretrained``; None means its default.
    """

    data: tuple[Path, ...]
    images: Path
    configs: NamedConfigs
    limit: int | None = None
    suffix: str = ""
    max_new_tokens: int = MAX_NEW_TOKENS
    model_path: str = "bundled"
    loading: dict[str, Any] = field(default_factory=dict)

    def samples(self) -> list[Sample]:
        """Read what is asked.

        Raises:
            ConfigError: no such file, or records of no known form.
        """
        if not self.images.is_dir():
            raise ConfigError(f"no folder of images at {self.images}: --images is what the records' paths start from")
        return [sample for path in data_files(self.data) for sample in read_samples(path)[: self.limit]]

    def load(self) -> Mapping[str, Any]:
        """Load the model once and return it under each config's name."""
        from prunevid_qwen import PruneVidQwen25VL

        given = {name: value for name, value in self.loading.items() if value is not None}
        model = PruneVidQwen25VL.from_pretrained(self.model_path, config=self.configs[0][1], **given)
        return {name: model.with_config(config) for name, config in self.configs}


def answer_run(
    folder: Path,
    run: VisualCotRun,
    samples: list[Sample],
    restart: bool = False,
    tell: Progress = lambda *_: None,
    command: str = "",
) -> None:
    """Answer what the folder does not hold yet.

    Args:
        folder: of the results; made if missing.
        run: what is asked.
        samples: its samples.
        restart: throw away what the folder holds.
        tell: told of the progress.
        command: what was typed, for the record.

    Raises:
        ConfigError: the folder holds a run of something else.
        SetupError: the model or the device is not there.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    options = options_of(samples, run.configs, run.model_path, run.loading, run.suffix, run.max_new_tokens)
    counts = {name: sum(sample.set == name for sample in samples) for name in options["sets"]}
    configs = {name: config.flat() for name, config in run.configs}
    whole = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
    about = {"command": command, "samples": counts, "configs": configs, "options_sha256": whole}
    open_folder(folder, options, about, restart)
    answer_all(folder, samples, list(configs), run.load, run.images, run.suffix, run.max_new_tokens, tell)


def score_run(
    folder: Path, scorer: str, judge: Judge | None = None, workers: int = 4, tell: Progress = lambda *_: None
) -> dict[str, Any]:
    """Score the answers that a folder holds, write its report and return the summary.

    Args:
        folder: of a run, finished or not.
        scorer: "judge", "exact" or "contained".
        judge: who judges; None for the other scorers.
        workers: requests to the judge at once.
        tell: told of the progress.

    Raises:
        ConfigError: the folder holds no run, or no answer.
        SetupError: the judge cannot be reached.
    """
    if judge is not None:
        answered = [line for line in whole_lines(folder / ANSWERS) if line["error"] is None]
        judge_all(folder, answered, judge, workers, tell)
    return write_report(folder, scorer, judge)
