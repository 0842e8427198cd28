"""A call of ``prunevid eval visual-cot``: the run, its progress and its report. Loads torch only when it runs."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.bars import Bars
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import MediaError

_SHOWN = 10  # problems; --check shows all


@dataclass(frozen=True)
class VisualCotRequest:
    """One call of ``prunevid eval visual-cot``.

    Args:
        out: folder of the results.
        data, images: files or folders of the sets, and where their images are.
        configs: name and config of each that was asked for.
        with_baseline: run the unpruned model whether asked for or not.
        scorer: "judge", "exact" or "contained".
        judge: arguments of `Judge`; {} is none.
        workers: requests to the judge at once.
        limit, brief, max_new_tokens: how each set is asked.
        model_path, loading: as in ``prunevid ask``.
        check: only say what is missing.
        judge_only: ask no model.
        restart: throw away what the folder holds.
        as_json, verbose: how to report.
        command: what was typed.
    """

    out: Path
    data: tuple[Path, ...] = ()
    images: Path = Path(".")
    configs: tuple[tuple[str, PruneVidConfig], ...] = ()
    with_baseline: bool = True
    scorer: str = "contained"
    judge: dict[str, Any] = field(default_factory=dict)
    workers: int = 4
    limit: int | None = None
    brief: bool = False
    max_new_tokens: int | None = None
    model_path: str = "bundled"
    loading: dict[str, Any] = field(default_factory=dict)
    check: bool = False
    judge_only: bool = False
    restart: bool = False
    as_json: bool = False
    verbose: bool = False
    command: str = ""

    def run(self) -> int:
        """Check, answer, judge, report; return the exit code.

        Raises:
            MediaError: with ``check``, something is missing.
        """
        logging.basicConfig(level=logging.INFO if self.verbose else logging.ERROR, format="%(name)s: %(message)s")
        quiet = contextlib.redirect_stdout(sys.stderr) if self.as_json else contextlib.nullcontext()
        with quiet:
            told = self._check() if self.check else self._evaluate()
        if self.as_json:
            typer.echo(json.dumps(told, ensure_ascii=False))
        return MediaError.exit_code if told.get("problems") else 0

    def _evaluate(self) -> dict[str, Any]:
        from transformers.utils import logging as library

        from prunevid_qwen.evaluation.tasks.judge import Judge
        from prunevid_qwen.evaluation.tasks.visual_cot import answer_run
        from prunevid_qwen.evaluation.tasks.visual_cot_tables import report_text, score_run, warnings_of

        judge = Judge(**self.judge) if self.judge else None
        if judge is not None:
            with judge.open():  # a missing client library is said before hours of answering
                pass
        with Bars() as bars:
            if not self.judge_only:
                run = self._asked()
                if not self.verbose:
                    library.set_verbosity_error()
                    library.disable_progress_bar()
                samples = run.samples()
                self._warn(self._problems(samples, False, bars), len(samples))
                answer_run(self.out, run, samples, self.restart, bars.tell, self.command)
            summary = score_run(self.out, self.scorer, judge, self.workers, bars.tell)
        if not self.as_json:
            table = [line for line in report_text(summary).splitlines() if line.startswith("|")]
            typer.echo("\n".join([*warnings_of(summary), *table, f"report: {self.out / 'report.md'}"]))
        return summary

    def _check(self) -> dict[str, Any]:
        samples = self._asked().samples()
        with Bars() as bars:
            found = self._problems(samples, True, bars)
        if not self.as_json:
            self._warn(found, len(samples), len(found))
            typer.echo(f"{len(samples) - len(found)} of {len(samples)} samples can be asked")
        return {"samples": len(samples), "problems": found}

    def _problems(self, samples: Any, decode: bool, bars: Bars) -> list[str]:
        from prunevid_qwen.evaluation.tasks.visual_cot_records import problems

        return list(problems(samples, self.images, decode, bars.tell))

    def _warn(self, found: list[str], samples: int, shown: int = _SHOWN) -> None:
        for problem in found[:shown]:
            typer.echo(f"missing: {problem}", err=True)
        if len(found) > shown:
            typer.echo(f"missing: {len(found) - shown} more; --check lists them all", err=True)
        if found and not self.check:
            said = f"{len(found)} of {samples} samples cannot be asked; the scores will be of the others alone"
            typer.echo(said, err=True)

    def _asked(self) -> Any:
        from prunevid_qwen.evaluation.tasks.visual_cot import BRIEF, MAX_NEW_TOKENS, VisualCotRun, competitors

        return VisualCotRun(
            self.data,
            self.images,
            competitors(self.configs, self.with_baseline),
            self.limit,
            BRIEF if self.brief else "",
            self.max_new_tokens or MAX_NEW_TOKENS,
            self.model_path,
            self.loading,
        )
