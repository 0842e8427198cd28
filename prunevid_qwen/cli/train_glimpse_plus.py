"""``prunevid train-glimpse-plus``: what is asked for, checked without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid_qwen.cli.help import EXIT_CODES, PanelledCommand
from prunevid_qwen.cli.train_glimpse_plus_request import TrainGlimpsePlusRequest
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.training.glimpse.recipe_values import read_yaml
from prunevid_qwen.training.glimpse_plus.recipe import GlimpsePlusRecipe

_TEXT = (
    "GlimpsePrune+: teach a model by reinforcement (GRPO on LoRA) to answer from the boxes of a question alone, merge "
    "what it learnt, and train the glimpse predictor of the merged model. On a real model this needs GPUs to be of any "
    "use: its authors took a day for the 7B on four A100 of 80 GB, beside 48 GB for the judge. On a CPU it trains the "
    "bundled model, to show that it works. Needs pip install 'prunevid_qwen[grpo,train]'."
)
_EPILOG = """\
[bold]Examples[/bold]
  prunevid train-glimpse-plus --recipe train/glimpse_plus_tiny.yaml --out runs/glimpse_plus_tiny --threads 1
  vllm serve Qwen/Qwen2.5-32B-Instruct-GPTQ-Int8      the judge, on GPUs of its own
  accelerate launch --multi_gpu train/glimpse_plus.py --recipe train/glimpse_plus.yaml --out runs/glimpse_plus_7b \\
      --judge_base_url http://localhost:8000/v1 --judge_model Qwen/Qwen2.5-32B-Instruct-GPTQ-Int8
  prunevid ask ... --model_path runs/glimpse_plus_7b/merged --selector glimpse \\
      --glimpse_path runs/glimpse_plus_7b/glimpse/model

A stopped run goes on where it was: give the same command again.
All options of a recipe, with their sources: train/glimpse_plus.yaml.
"""
_HOW, _JUDGE = "How it runs", "Judge (for data with reward: judge)"


def _option(name: str, text: str, metavar: str | None, panel: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", help=text, metavar=metavar, rich_help_panel=panel, **more)


def train_glimpse_plus(
    recipe: Annotated[
        Path | None, _option("recipe", "Options in a YAML file. Default: the published recipe.", "FILE", _HOW)
    ] = None,
    options: Annotated[
        list[str] | None,
        _option("set", "An option over the recipe's, in YAML: steps=20, beta=0.1. Repeat it.", "OPTION=VALUE", _HOW),
    ] = None,
    out: Annotated[Path, _option("out", "Folder of the run. Default: runs/glimpse_plus.", "FOLDER", _HOW)] = Path(
        "runs/glimpse_plus"
    ),
    no_glimpse: Annotated[
        bool, _option("no_glimpse", "Stop at the merged model; without it the same command goes on.", None, _HOW)
    ] = False,
    no_check: Annotated[bool, _option("no_check", "Do not look at the records before training.", None, _HOW)] = False,
    restart: Annotated[bool, _option("restart", "Throw away what the folder holds.", None, _HOW)] = False,
    device: Annotated[
        str | None, _option("device", "cpu leaves a GPU alone. Default: what accelerate finds.", "cpu", _HOW)
    ] = None,
    threads: Annotated[
        int | None, _option("threads", "Of torch on the CPU. Default: torch's.", "INT", _HOW, min=1)
    ] = None,
    as_json: Annotated[bool, _option("json", "summary.json as one JSON object on stdout.", None, _HOW)] = False,
    verbose: Annotated[bool, _option("verbose", "Log; tracebacks of errors.", None, _HOW)] = False,
    judge_base_url: Annotated[
        str, _option("judge_base_url", "OpenAI-compatible endpoint, such as http://localhost:8000/v1.", "URL", _JUDGE)
    ] = "",
    judge_model: Annotated[str, _option("judge_model", "As that endpoint calls it.", "NAME", _JUDGE)] = "",
    judge_api_key_file: Annotated[
        Path | None, _option("judge_api_key_file", "Holds the key. Default: none is needed.", "FILE", _JUDGE)
    ] = None,
    judge_workers: Annotated[int, _option("judge_workers", "Requests at once. Default: 4.", "INT", _JUDGE, min=1)] = 4,
) -> TrainGlimpsePlusRequest:
    """Say what is asked for; nothing runs here."""
    if device not in (None, "cpu"):
        raise ConfigError(
            f"--device takes cpu, got {quoted(device)}: GPUs are chosen with CUDA_VISIBLE_DEVICES or "
            "by accelerate launch"
        )
    made = build_recipe(recipe, options or [])
    if bool(judge_base_url) != bool(judge_model):
        raise ConfigError("--judge_base_url and --judge_model belong together: pass both or neither")
    if made.needs_judge and not judge_base_url:
        raise ConfigError(
            "the recipe scores free answers by a judge: pass --judge_base_url and --judge_model, or give every entry "
            "of its data reward: exact_match"
        )
    if no_check and made.skip_bad:
        raise ConfigError("--no_check cannot say which records skip_bad would leave out: pass one of them")
    return TrainGlimpsePlusRequest(
        recipe=made,
        out=out,
        with_glimpse=not no_glimpse,
        check=not no_check,
        restart=restart,
        device=device,
        threads=threads,
        judge={"base_url": judge_base_url, "model": judge_model, **_key(judge_api_key_file)} if judge_base_url else {},
        judge_workers=judge_workers,
        as_json=as_json,
        verbose=verbose,
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )


def build_recipe(path: Path | None, given: list[str]) -> GlimpsePlusRecipe:
    """Return the recipe of a file, or the published one, with OPTION=VALUE on top.

    Raises:
        ConfigError: no such file, an unknown option, or a bad value.
    """
    base = GlimpsePlusRecipe() if path is None else GlimpsePlusRecipe.from_yaml(path)
    changes = {}
    for text in given:
        option, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes OPTION=VALUE such as steps=20, got {quoted(text)}")
        changes[option.strip()] = read_yaml(value, f"--set {text}")
    return base.replace(**changes) if changes else base


def register_train_glimpse_plus(app: typer.Typer) -> None:
    """Give the command line ``train-glimpse-plus``."""
    short = "GlimpsePrune+: teach a model by reinforcement to answer from boxes alone; needs GPUs on a real one."
    app.command("train-glimpse-plus", help=_TEXT, short_help=short, epilog=_EPILOG + EXIT_CODES, cls=PanelledCommand)(
        train_glimpse_plus
    )


def _key(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        key = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"cannot read --judge_api_key_file {path} ({error.strerror})") from None
    if not key:
        raise ConfigError(f"--judge_api_key_file {path} is empty: it holds the key alone, on one line")
    return {"api_key": key}
