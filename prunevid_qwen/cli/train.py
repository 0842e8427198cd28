"""``prunevid train``: GlimpsePrune's predictor, and GlimpsePrune+; ``prunevid convert-glimpse``: a published one."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from prunevid_qwen.cli.groups import JudgeOptions, TrainingOptions
from prunevid_qwen.cli.option import documented, opt, word
from prunevid_qwen.cli.output import Bars, Done, Reporting, typed
from prunevid_qwen.config.amounts import size
from prunevid_qwen.errors import ConfigError, MediaError, SetupError, quoted
from prunevid_qwen.training.glimpse.recipe import CHOICES, GlimpseRecipe
from prunevid_qwen.training.glimpse.recipe_values import read_yaml
from prunevid_qwen.training.glimpse_plus.recipe import GlimpsePlusRecipe

_RECIPE = "Recipe (each overrides what stands in --recipe)"
_FIGURES = ("lm", "dice", "bce", "precision", "recall", "f1", "iou", "kept")


def glimpse(
    *,
    recipe: str = opt("glimpse", "Name of a recipe, or a YAML file. Default: glimpse, the published one.", "NAME|FILE"),
    out: Path = opt(Path("runs/glimpse"), "Folder of checkpoint, curves and model. Default: runs/glimpse.", "FOLDER"),
    options: Annotated[dict[str, Any], documented(GlimpseRecipe, _RECIPE, choices=CHOICES)],
    training: TrainingOptions,
    output: Reporting,
) -> Done:
    """Train GlimpsePrune's predictor for a frozen model, on questions with boxes that say where the answer is.

    Examples:
      prunevid train glimpse --dry_run                      is the published recipe's data complete?
      prunevid train glimpse --recipe glimpse --out runs/glimpse_7b
      prunevid train glimpse --recipe glimpse_tiny --out runs/glimpse_tiny --threads 1
      accelerate launch --multi_gpu train/glimpse.py --recipe glimpse --out runs/glimpse_7b
      ... --data path=mine.jsonl --data images=pictures --epochs 3      own boxes, the rest as published
      prunevid ask ... --selector glimpse --glimpse_path runs/glimpse_7b/model

    A stopped run goes on where it was: give the same command again.
    """
    made = glimpse_recipe(recipe, options)
    from accelerate import PartialState

    from prunevid_qwen.training.glimpse.curve_plot import draw_curve
    from prunevid_qwen.training.glimpse.opened import IGNORED, look_at, open_recipe
    from prunevid_qwen.training.glimpse.train import train
    from prunevid_qwen.training.glimpse.training_folder import CURVE, EVALUATION, TrainingFolder

    if training.dry_run:
        with Bars(output.quiet) as bars:
            reports = look_at(open_recipe(made), bars.tell)
        told = {
            "records": {name: report.total for name, report in reports.items()},
            "flaws": {name: report.counts for name, report in reports.items()},
            "problems": sum(report.total - len(report.skip_bad(IGNORED)) for report in reports.values()),
        }
        lines = [f"{name}: {line}" for name, report in reports.items() for line in report.lines()]
        return Done(told, "\n".join(lines), MediaError.exit_code if told["problems"] else 0)
    how = _how(training, made.skip_bad)

    def draw() -> None:
        curve, evaluation = (TrainingFolder(out).lines(name) for name in (CURVE, EVALUATION))
        if curve and PartialState().is_main_process and output.can_plot("curve.jsonl has the figures"):
            draw_curve(curve, evaluation, out / "curve.svg")

    with output.running(out) as bars:
        try:
            record = train(made, out, **how, tell=bars.tell_figures)
        except KeyboardInterrupt:
            draw()
            raise
    draw()
    if not PartialState().is_main_process:  # of several, one reports
        return Done(text="")
    lines = [
        f"{name}, step {line['step']}: {', '.join(f'{each} {line[each]:.3f}' for each in _FIGURES)}"
        for name, figures in (("training", record["training"]), ("held out", record["evaluation"]))
        for line in figures
    ]
    model = out / "model"
    lines += [f"predictor: {model}", f"try it: prunevid ask ... --selector glimpse --glimpse_path {model}"]
    return Done(record, "\n".join(lines))


def glimpse_recipe(recipe: str | Path, given: Mapping[str, Any]) -> GlimpseRecipe:
    """Return a recipe, or raise `ConfigError`, with the options that were given on top; pairs are OPTION=VALUE."""
    base = GlimpseRecipe.from_yaml(recipe)
    changes = dict(given)
    for name in {"data", "eval_data"} & changes.keys():
        own = _pairs(f"--{name}", changes[name])
        changes[name] = own if "kind" in own else {**getattr(base, name), **own}
    return base.replace(**changes)


def glimpse_plus(
    *,
    recipe: str = opt("glimpse_plus", "Name of a recipe, or a YAML file. Default: as published.", "NAME|FILE"),
    options: list[str] | None = opt(None, "Over the recipe's, in YAML. Repeat it.", "OPTION=VALUE", spelling="set"),
    out: Path = opt(Path("runs/glimpse_plus"), "Folder of the run. Default: runs/glimpse_plus.", "FOLDER"),
    no_glimpse: bool = opt(False, "Stop at the merged model; without it the same command goes on."),
    judge: JudgeOptions,
    training: TrainingOptions,
    output: Reporting,
) -> Done:
    """GlimpsePrune+: teach a model by reinforcement (GRPO on LoRA) to answer from boxes alone; then its predictor.

    Examples:
      prunevid train glimpse-plus --recipe glimpse_plus_tiny --out runs/glimpse_plus_tiny --threads 1
      vllm serve Qwen/Qwen2.5-32B-Instruct-GPTQ-Int8      the judge, on GPUs of its own
      accelerate launch --multi_gpu train/glimpse_plus.py --recipe glimpse_plus --out runs/glimpse_plus_7b \\
          --judge_base_url http://localhost:8000/v1 --judge_model Qwen/Qwen2.5-32B-Instruct-GPTQ-Int8
      prunevid ask ... -m runs/glimpse_plus_7b/merged --selector glimpse \\
          --glimpse_path runs/glimpse_plus_7b/glimpse/model

    A stopped run goes on where it was: give the same command again.
    On a real model this needs GPUs to be of any use: its authors took a day for the 7B on four A100 of 80 GB, beside
    48 GB for the judge. On a CPU it trains the bundled model, to show that it works. Needs pip install
    'prunevid_qwen[grpo,train]'. A recipe's own file says of each option where its value is from.
    """
    made = GlimpsePlusRecipe.from_yaml(recipe).replace(**_pairs("--set", options or []))
    marking = judge.arguments()
    if made.needs_judge and not marking:
        either = "pass --judge_base_url and --judge_model, or give every entry of its data reward: exact_match"
        raise ConfigError(f"the recipe scores free answers by a judge: {either}")
    if training.dry_run:
        said = f"{quoted(recipe)} is a recipe that can be trained; its records are looked at when it begins"
        return Done(made.to_dict(), said)
    from prunevid_qwen.training.glimpse.training_folder import CURVE, TrainingFolder
    from prunevid_qwen.training.glimpse_plus import plus_summary
    from prunevid_qwen.training.glimpse_plus.train import GLIMPSE, HELD_OUT, MERGED, check_installed, train_plus

    check_installed()
    from accelerate import PartialState

    if not output.verbose:
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)  # trl's own
    how = _how(training, made.skip_bad)
    with rewards(marking, judge.judge_workers) as by_name, output.running(out) as bars:
        done = train_plus(made, out, by_name, **how, with_glimpse=not no_glimpse, tell=bars.tell_figures)
    if not PartialState().is_main_process:  # of several, one reports
        return Done(text="")
    curve, held_out = (TrainingFolder(out).lines(name) for name in (CURVE, HELD_OUT))
    summary = {**plus_summary.summarise(curve, held_out, made.group * made.questions_per_step), **done}
    text = json.dumps(summary, indent=2, ensure_ascii=False, default=str)
    (out / "summary.json").write_text(f"{text}\n", encoding="utf-8")
    if output.can_plot("summary.json and the folder's lines have the figures"):
        plus_summary.draw_plus(curve, summary, out / "curve.svg")
    merged, model = out / MERGED, out / GLIMPSE / "model"
    lines = [*plus_summary.said(summary), f"model: {merged}"]
    if done["glimpse"] is not None:
        again = f"prunevid ask ... -m {merged} --selector glimpse --glimpse_path {model}"
        lines += [f"predictor: {model}", f"try it: {again}"]
    return Done(summary, "\n".join(lines))


@contextmanager
def rewards(judge: Mapping[str, Any], workers: int = 4) -> Iterator[dict[str, Any]]:
    """Give the rewards of GlimpsePrune+ by name, with those of a judge of these arguments, asked by so many at once."""
    from prunevid_qwen.evaluation.tasks.judge import Judge, Judged, NotJudged, score_in
    from prunevid_qwen.training.glimpse_plus.rewards import exact_match, judge_reward

    if not judge:
        yield {"exact_match": exact_match}
        return
    marker = Judge(**judge)
    with marker.open() as client:

        def ask(question: str, reference: str, answer: str) -> float | None:
            try:
                return score_in(marker.reply(client, Judged(question, reference, answer)))
            except NotJudged as error:
                logging.getLogger(__name__).warning("not judged: %s", error)
                return None
            except SetupError as error:
                who = f"the judge {marker.model!r} at {marker.base_url} does not answer ({error.__cause__ or error})"
                how = "start its server, or correct --judge_base_url, --judge_model and --judge_api_key_file"
                raise SetupError(f"{who}: {how}; the same command goes on from the last checkpoint") from error

        yield {"exact_match": exact_match, "judge": judge_reward(ask, workers)}


def _how(training: TrainingOptions, skip_bad: bool) -> dict[str, Any]:
    """Ready torch, and return how to train, with what the run's record says of where it ran."""
    if training.no_check and skip_bad:
        raise ConfigError("--no_check cannot say which records skip_bad would leave out: pass one of them")
    import torch

    from prunevid_qwen.evaluation.store import surroundings

    if training.threads is not None:
        torch.set_num_threads(training.threads)
    how = {"restart": training.restart, "check": not training.no_check, "device": training.device}
    return {**how, "about": {"command": typed(), **surroundings()}}


def _pairs(option: str, given: list[str]) -> dict[str, Any]:
    """Read OPTION=VALUE, the value in YAML."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{option} takes OPTION=VALUE, such as steps=20, got {quoted(text)}")
        found[name.strip()] = read_yaml(value, f"{option} {text}")
    return found


def convert_glimpse(
    *,
    source: str = word(..., "SOURCE", "Published folder or hub id."),
    out: Path = word(..., "OUT", "Folder to write."),
    dtype: str = opt("float32", "Of the tensors on disk; bfloat16 rounds them. Default: float32.", "float32|bfloat16"),
    to_published: bool = opt(False, "Write the authors' form, of a run of `train glimpse`: SOURCE is its folder."),
    force: bool = opt(False, "Write into a folder that holds something."),
    revision: str | None = opt(None, "Branch, tag or commit on the hub.", "NAME"),
    local_files_only: bool = opt(False, "Never ask the network for the predictor."),
    output: Reporting,
) -> Done:
    """Write a published glimpse predictor (config.json, new_modules_gp.pt) as safetensors, or back: SOURCE OUT.

    Examples:
      prunevid convert-glimpse ashun989/GlimpsePrune_Qwen2.5-VL-7B-Instruct glimpse_7b
      prunevid convert-glimpse ./downloaded glimpse_7b --dtype bfloat16
      prunevid convert-glimpse runs/mine mine_gp --to_published     a run, as the authors publish theirs
      prunevid ask ... --selector glimpse --glimpse_path glimpse_7b

    The published folder works as it is too; ours is safetensors instead of a pickle, and smaller: le_proj, le_norm and
    learnable_embeddings, of which the glimpse vectors are made in training, are left out.
    """
    if out.exists() and Path(source).is_dir() and out.samefile(source):
        raise ConfigError(f"{out} is the source itself: name another folder, so that the published one stays")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not force):
        raise ConfigError(f"{out} is there already: name another folder, or pass --force to write into it")
    import torch
    from huggingface_hub import try_to_load_from_cache

    if to_published:
        from prunevid_qwen.training.glimpse.published_form import trained, write_published

        write_published(trained(Path(source)), out, getattr(torch, dtype))
        return Done({"out": str(out)}, f"wrote {out}: config.json, new_modules_gp.pt, {dtype}")
    from prunevid_qwen.stage2_select.glimpse import GlimpseVIP
    from prunevid_qwen.stage2_select.glimpse.predictor import PUBLISHED

    given: dict[str, Any] = {"revision": revision} if revision else {}
    predictor = GlimpseVIP.from_pretrained(source, local_files_only=local_files_only, **given)
    written = predictor.save_pretrained(out, getattr(torch, dtype)) / "model.safetensors"
    facts, vip = predictor.facts, sum(parameter.numel() for parameter in predictor.vip.parameters())
    cached = None if Path(source).is_dir() else try_to_load_from_cache(source, PUBLISHED, revision=revision)
    published = Path(source) / PUBLISHED if cached is None else Path(str(cached))
    left = facts.hidden_size * (facts.hidden_size + 2) if published.is_file() else 0  # le_proj and le_norm
    told: dict[str, Any] = {
        "out": str(written),
        "bytes": written.stat().st_size,
        "parameters": vip,
        "left_out": left,
        "layers": facts.layers,
    }
    unused = f"\nleft out of {PUBLISHED}: {left:,} parameters of le_proj and le_norm, which no answer needs"
    made = f"{vip:,} parameters of the predictor and {facts.layers} glimpse vectors of {facts.hidden_size} channels"
    of = f"for {facts.layers} layers, dropping after layer {facts.reduce_layer}"
    return Done(told, f"wrote {written} ({size(told['bytes'])}): {made}, {dtype}; {of}{unused if left else ''}")
