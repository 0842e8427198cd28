"""``prunevid eval visual-cot``: questions about images, free answers, scored by a judge or by their words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.groups import JudgeOptions, ModelOptions
from prunevid_qwen.cli.option import opt
from prunevid_qwen.cli.options import CONFIGS_HELP, PruningOptions
from prunevid_qwen.cli.output import Done, Reporting, terminal_table, typed
from prunevid_qwen.config.typed import named_configs
from prunevid_qwen.errors import ConfigError, MediaError, quoted

EXAMPLES = """\
[bold]Examples[/bold]
  prunevid eval visual-cot --data viscot_benchmark/benchmark --images . --dry_run
  prunevid eval visual-cot --data benchmark/gqa.json --images . --limit 100 \\
      -m Qwen/Qwen2.5-VL-7B-Instruct --configs paper --keep_ratio 0.11
  ... --judge_base_url http://localhost:8000/v1 --judge_model Qwen/Qwen2.5-32B-Instruct
  ... --judge_only                      judge the answers of --out, or try again what failed

A stopped run goes on where it was: give the same command again. Scores are of the answered samples, and
the report says of how many. Images that were missing are asked when they are there.
"""
_SCORERS = ("judge", "exact", "contained")
_SCORE = "How it is scored"


def visual_cot(
    *,
    data: list[Path] | None = opt(None, "A set (.json, .jsonl), or a folder of sets. Repeat it for several.", "PATH"),
    images: Path = opt(Path("."), "Folder from which the records' image paths start. Default: this one.", "FOLDER"),
    limit: int | None = opt(None, "So many samples of each set, equally spaced. Default: all.", "INT", least=1),
    brief: bool = opt(False, "Ask for a single word or phrase, behind every question."),
    max_new_tokens: int | None = opt(None, "Longest answer. Default: 1024.", "INT", least=1),
    configs: str = opt("paper", f"{CONFIGS_HELP} Default: paper, beside the baseline.", "NAMES"),
    no_baseline: bool = opt(False, "Leave out the unpruned model (and so the differences to it)."),
    out: Path = opt(Path("runs/visual_cot"), "Folder of the results. Default: runs/visual_cot.", "FOLDER"),
    dry_run: bool = opt(False, "Only read everything and say what is missing (exit code 4)."),
    restart: bool = opt(False, "Throw away what the folder holds."),
    scorer: str = opt(
        "", "Default: judge with --judge_base_url, else contained; the report has both.", "|".join(_SCORERS), _SCORE
    ),
    judge_only: bool = opt(False, "Score the answers that --out holds; no model is loaded.", None, _SCORE),
    judge: JudgeOptions,
    model: ModelOptions,
    output: Reporting,
    pruning: PruningOptions,
) -> Done:
    """Answer Visual-CoT's questions about images with and without pruning, and score the answers."""
    if restart and judge_only:
        raise ConfigError("--restart throws away the answers that --judge_only would score: pass one of them")
    scorer = scorer or ("judge" if judge.judge_base_url else "contained")
    if scorer not in _SCORERS:
        raise ConfigError(f"scorer is one of {', '.join(_SCORERS)}; got {quoted(scorer)}")
    marking = judge.arguments() if scorer == "judge" else {}
    if scorer == "judge" and not marking:
        raise ConfigError("a judge needs --judge_base_url and --judge_model, see --help; --scorer contained needs none")
    made = named_configs(configs, pruning.given)
    from prunevid_qwen.evaluation.tasks.judge import Judge
    from prunevid_qwen.evaluation.tasks.visual_cot import (
        BRIEF,
        MAX_NEW_TOKENS,
        VisualCotRun,
        answer_run,
        competitors,
        problems,
    )
    from prunevid_qwen.evaluation.tasks.visual_cot_tables import report_text, score_run, warnings_of

    def asked() -> Any:
        return VisualCotRun(
            tuple(data or ()), images, competitors(made, not no_baseline), limit, BRIEF if brief else "",
            max_new_tokens or MAX_NEW_TOKENS, model.model_path, model.loading, plugins=pruning.plugins,
        )  # fmt: skip

    if dry_run:
        samples = asked().samples()
        with output.bars() as bars:
            found = list(problems(samples, images, True, bars.tell))
        output.note_missing(found, f"of {len(samples)} samples cannot be asked", "", len(found))
        said = f"{len(samples) - len(found)} of {len(samples)} samples can be asked"
        told = {"samples": len(samples), "problems": found}
        return Done(told, lambda: typer.echo(said), MediaError.exit_code if found else 0)
    marker = Judge(**marking) if marking else None
    if marker is not None:
        with marker.open():  # a missing client library is said before hours of answering
            pass
    with output.keeping(out), output.bars() as bars:
        if not judge_only:
            run = asked()
            output.note_toy(model.model_path)
            output.calm_libraries()
            samples = run.samples()
            output.note_missing(
                list(problems(samples, images, False, bars.tell)),
                f"of {len(samples)} samples cannot be asked",
                "; --dry_run lists them all. The scores will be of the others alone",
            )
            answer_run(out, run, samples, restart, bars.tell, typed())
        summary = score_run(out, scorer, marker, judge.judge_workers, bars.tell)

    def show() -> None:
        table = terminal_table(report_text(summary), keys=2, columns=6)
        typer.echo("\n".join([*warnings_of(summary), table, f"report: {out / 'report.md'}"]))

    return Done(summary, show)
