"""A call of ``prunevid batch``: its questions, its run, its progress. Loads torch only once the questions are read."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.bars import Bars
from prunevid_qwen.cli.engines import engine_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import MediaError, excerpt

_SHOWN = 5  # missing files; the answers' lines name all


@dataclass(frozen=True)
class BatchRequest:
    """One call of ``prunevid batch``.

    Args:
        questions, out: files of what is asked and of the answers.
        config: its name and itself.
        max_new_tokens, system, limit: how it is asked.
        engine: "local" or "ray".
        workers: processes that read ahead; None is all that are free, under Ray.
        ray_address, replicas: of the cluster.
        model_path, loading: as in ``prunevid ask``.
        restart: throw away what the file of answers holds.
        as_json, verbose: how to report.
        command: what was typed.
    """

    questions: Path
    out: Path
    config: tuple[str, PruneVidConfig]
    max_new_tokens: int = 512
    system: str | None = None
    limit: int | None = None
    engine: str = "local"
    workers: int | None = None
    ray_address: str | None = None
    replicas: int | None = None
    model_path: str = "bundled"
    loading: dict[str, Any] = field(default_factory=dict)
    restart: bool = False
    as_json: bool = False
    verbose: bool = False
    command: str = ""

    def run(self) -> int:
        """Answer what is missing, say what was done, and return the exit code."""
        from prunevid_qwen.evaluation.tasks.batch_questions import missing_media, read_questions

        questions = read_questions(self.questions, self.system, self.limit)
        self._warn_of(missing_media(questions))
        logging.basicConfig(level=logging.INFO if self.verbose else logging.ERROR, format="%(name)s: %(message)s")
        # libraries that print, Ray among them, must spoil neither the one object under --json nor a pipe
        try:
            with contextlib.redirect_stdout(sys.stderr):
                told = self._answer(questions)
        except KeyboardInterrupt:
            typer.echo(f"what was answered is in {self.out}: the same command goes on where it was", err=True)
            raise
        if self.as_json:
            typer.echo(json.dumps(told, ensure_ascii=False))
        else:
            failed = f"; {told['failed']} could not be answered, their lines say why" if told["failed"] else ""
            typer.echo(f"{told['answered']} of {told['questions']} questions are answered in {self.out}{failed}")
        return MediaError.exit_code if told["failed"] else 0

    def _answer(self, questions: Sequence[Any]) -> dict[str, Any]:
        from transformers.utils import logging as library

        from prunevid_qwen.evaluation.tasks.batch import BatchRun, answer_batch

        if not self.verbose:
            library.set_verbosity_error()
            library.disable_progress_bar()
        run = BatchRun(tuple(questions), self.config, self.system, self.max_new_tokens, self.model_path, self.loading)
        how = (self.engine, self.workers, self.ray_address, self.replicas, self.loading.get("device"), self.verbose)
        with Bars() as bars, engine_of(*how, bars.tell) as (engine, device):
            return answer_batch(self.out, run, engine, device, self.restart, bars.tell, self.command)

    def _warn_of(self, missing: Sequence[str]) -> None:
        for path in missing[:_SHOWN]:
            typer.echo(f"missing: {excerpt(path)}", err=True)
        if missing:
            more = f" ({len(missing) - _SHOWN} more are not shown)" if len(missing) > _SHOWN else ""
            typer.echo(f"{len(missing)} media are missing{more}: questions about them get a line that says so, and are "
                       "asked again by the next run", err=True)  # fmt: skip
