"""A call of ``prunevid train-glimpse-plus``: the training, its progress, its summary. Loads torch only when it runs."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.training_bars import TrainingBars
from prunevid_qwen.errors import SetupError
from prunevid_qwen.training.glimpse_plus.recipe import GlimpsePlusRecipe

_SAID = ("reward", "kl", "entropy", "policy_gap")


@dataclass(frozen=True)
class TrainGlimpsePlusRequest:
    """One call of ``prunevid train-glimpse-plus``.

    Args:
        recipe: all that decides what comes out.
        out: folder of the run.
        with_glimpse: train the predictor of the merged model too.
        check: look at the data before training.
        restart: throw away what the folder holds.
        device: "cpu", or None for what accelerate finds.
        threads: of torch, or None for its own choice.
        judge: arguments of `Judge`; {} is none.
        judge_workers: requests to it at once.
        as_json, verbose: how to report.
        command: what was typed.
    """

    recipe: GlimpsePlusRecipe
    out: Path
    with_glimpse: bool = True
    check: bool = True
    restart: bool = False
    device: str | None = None
    threads: int | None = None
    judge: dict[str, Any] = field(default_factory=dict)
    judge_workers: int = 4
    as_json: bool = False
    verbose: bool = False
    command: str = ""

    def run(self) -> int:
        """Train and sum up; return the exit code.

        Raises:
            KeyboardInterrupt: the run was stopped; it has said how to go on.
        """
        logging.basicConfig(level=logging.INFO if self.verbose else logging.WARNING, format="%(name)s: %(message)s")
        quiet = contextlib.redirect_stdout(sys.stderr) if self.as_json else contextlib.nullcontext()
        with quiet:
            told = self._trained()
        if self.as_json and told:
            typer.echo(json.dumps(told, ensure_ascii=False))
        return 0

    def _trained(self) -> dict[str, Any]:
        """Train, sum up and say what came out; {} in all processes but the main one."""
        from prunevid_qwen.training.glimpse_plus.train import check_installed, train_plus

        check_installed()
        import torch
        from accelerate import PartialState
        from transformers.utils import logging as library

        from prunevid_qwen.evaluation.store import surroundings

        if not self.verbose:
            library.set_verbosity_error()
            library.disable_progress_bar()
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)  # trl's own
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            with self.rewards() as rewards, TrainingBars() as bars:

                def tell(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
                    of_ours = "reward" in figures  # the predictor's own figures are for the bars to show
                    bars.tell(what, done, total, {} if of_ours else figures)
                    if of_ours:
                        said = "  ".join(f"{name} {figures[name] or 0:.3f}" for name in _SAID if name in figures)
                        bars.console.print(f"step {done}/{total}  {said}", highlight=False, soft_wrap=True)

                done = train_plus(
                    self.recipe,
                    self.out,
                    rewards,
                    restart=self.restart,
                    check=self.check,
                    device=self.device,
                    with_glimpse=self.with_glimpse,
                    about={"command": self.command, **surroundings()},
                    tell=tell,
                )
        except KeyboardInterrupt:
            if PartialState().is_main_process:
                typer.echo(f"stopped; the same command goes on from {self.out}", err=True)
            raise
        if not PartialState().is_main_process:
            return {}
        return self._summed_up(done)

    @contextmanager
    def rewards(self) -> Iterator[dict[str, Any]]:
        """Give the rewards by name; a judge's connection is open inside the block."""
        from prunevid_qwen.training.glimpse_plus.rewards import exact_match, judge_reward

        if not self.judge:
            yield {"exact_match": exact_match}
            return
        from prunevid_qwen.evaluation.tasks.judge import Judge, Marked, NotJudged, score_in

        log, judge = logging.getLogger(__name__), Judge(**self.judge)
        try:
            opened = judge.open()
        except SetupError as error:
            raise SetupError(f"the judge is asked through the openai client: {error}") from error
        with opened as client:

            def ask(question: str, reference: str, answer: str) -> float | None:
                try:
                    return score_in(judge.reply(client, Marked(question, reference, answer)))
                except NotJudged as error:
                    log.warning("not judged: %s", error)
                    return None
                except SetupError as error:
                    raise SetupError(
                        f"the judge {judge.model!r} at {judge.base_url} does not answer "
                        f"({error.__cause__ or error}): start its server, or correct --judge_base_url, --judge_model "
                        "and --judge_api_key_file. The last checkpoint is kept: the same command goes on from it"
                    ) from error

            yield {"exact_match": exact_match, "judge": judge_reward(ask, self.judge_workers)}

    def _summed_up(self, done: dict[str, Any]) -> dict[str, Any]:
        from prunevid_qwen.training.glimpse.run_folder import CURVE, RunFolder
        from prunevid_qwen.training.glimpse_plus.summary import draw_plus, said, summarise
        from prunevid_qwen.training.glimpse_plus.train import GLIMPSE, HELD_OUT, MERGED

        folder = RunFolder(self.out)
        curve, held_out = folder.lines(CURVE), folder.lines(HELD_OUT)
        summary = {**summarise(curve, held_out, self.recipe.group * self.recipe.questions_per_step), **done}
        (self.out / "summary.json").write_text(
            json.dumps(summary, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
        )
        if importlib.util.find_spec("matplotlib") is not None:
            draw_plus(curve, summary, self.out / "curve.svg")
        if not self.as_json:
            for line in said(summary):
                typer.echo(line)
            typer.echo(f"model: {self.out / MERGED}")
            if done["glimpse"] is not None:
                model = self.out / GLIMPSE / "model"
                typer.echo(f"predictor: {model}\ntry it: prunevid ask ... --model_path {self.out / MERGED} "
                           f"--selector glimpse --glimpse_path {model}")  # fmt: skip
        return summary
