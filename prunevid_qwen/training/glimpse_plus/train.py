"""GlimpsePrune+: reinforcement on answers from boxes, adapters merged, and the glimpse trained on what came of it.

A run goes on where it was: reinforcement from trl's last checkpoint, the predictor from its own. It needs GPUs to be of
use on a real model: its authors trained the 7B for a day on four A100 of 80 GB, beside 48 GB for the judge.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import is_bundled, source_of
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.inputs.frontends import check_own_reading
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.processes.interruption import between_steps, interruption
from prunevid_qwen.receipt import versions
from prunevid_qwen.training.glimpse.base import facts_for, load_base
from prunevid_qwen.training.glimpse.train import train
from prunevid_qwen.training.glimpse.training_folder import CURVE, TrainingFolder
from prunevid_qwen.training.glimpse_plus.entries import PromptReader, open_entries
from prunevid_qwen.training.glimpse_plus.lora import adapted_layers, lora_config, write_merged
from prunevid_qwen.training.glimpse_plus.policy import box_config
from prunevid_qwen.training.glimpse_plus.recipe import FREE, GlimpsePlusRecipe
from prunevid_qwen.training.glimpse_plus.rewards import Reward

CHECKPOINTS, MERGED, GLIMPSE = "grpo", "merged", "glimpse"
RECIPE, HELD_OUT, RECORD = "recipe.json", "held_out.jsonl", "grpo.json"
LIBRARIES = ("trl", "peft", "datasets")

TellStep = Callable[[str, int, int, Mapping[str, float]], None]
"""Told what is done, how far it is, of how much, and the newest figures."""

logger = logging.getLogger(__name__)


def check_installed() -> None:
    """Raise `SetupError` unless trl, peft and datasets are installed."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"GlimpsePrune+ trains with {', '.join(LIBRARIES)}, of which {', '.join(missing)} is missing: "
            "pip install 'prunevid_qwen[grpo]'"
        )


def train_plus(
    recipe: GlimpsePlusRecipe,
    out: Path,
    rewards: Mapping[str, Reward],
    *,
    restart: bool = False,
    check: bool = True,
    device: str | None = None,
    with_glimpse: bool = True,
    about: Mapping[str, Any] | None = None,
    tell: TellStep | None = None,
) -> dict[str, Any]:
    """Train, or go on with what the folder holds.

    Under ``accelerate launch`` every process calls this; the folder is one that all of them see.

    Args:
        recipe: all that decides what comes out.
        out: folder; in the end it holds ``curve.jsonl``, ``held_out.jsonl``, ``grpo.json``, the model ``merged/``, and
            ``glimpse/`` with the predictor in ``glimpse/model``.
        rewards: trl-style functions by the names that the entries of the data use.
        restart: throw away what the folder holds.
        check: look at all records before the model is loaded.
        device: "cpu" leaves a GPU alone; None takes what accelerate finds.
        with_glimpse: train the predictor too; False stops at the merged model.
        about: written into the records too, such as the command.
        tell: called in the main process as the work goes on.

    Returns: {"grpo": what ``grpo.json`` holds, "glimpse": what ``glimpse/train.json`` holds or None}.

    Raises:
        ConfigError: a recipe that fits neither model nor processes, no reward of a name, or a folder with another run.
        MediaError: data that cannot be trained on.
        SetupError: a library, the model, the device or the judge is not there.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; the step is finished and saved, the same call goes on.
    """
    check_installed()
    used = {entry.get("reward", "exact_match") for entry in (*recipe.data, *recipe.eval_data)}
    if not used <= set(rewards):
        raise ConfigError(
            f"the data is scored by {', '.join(sorted(used))}, but there is only {', '.join(sorted(rewards))}: a judge "
            "comes with --judge_base_url and --judge_model, or give every entry reward: exact_match"
        )
    from accelerate import PartialState

    # the main process measures held-out records and merges alone: the others wait longer than torch would by default
    state = PartialState(cpu=str(device or "").startswith("cpu"), timeout=timedelta(days=1))
    say: TellStep = tell if tell is not None and state.is_main_process else (lambda *_: None)
    with state.main_process_first():
        if state.is_main_process:
            _begin_folder(recipe, out, restart)
    record_path = out / RECORD
    if not (record_path.is_file() and (out / MERGED).is_dir()):
        _reinforce(recipe, out, rewards, check, device, about or {}, say)
    record: dict[str, Any] = json.loads(record_path.read_text(encoding="utf-8"))
    done: dict[str, Any] = {"grpo": record, "glimpse": None}
    if with_glimpse:
        made = recipe.glimpse_recipe(str(out / MERGED))
        done["glimpse"] = train(made, out / GLIMPSE, check=check, device=device, about=about, tell=say)
    return done


def _begin_folder(recipe: GlimpsePlusRecipe, out: Path, restart: bool) -> None:
    path = out / RECIPE
    if restart:
        for name in (CURVE, HELD_OUT, RECORD, RECIPE, "summary.json", "curve.svg"):
            (out / name).unlink(missing_ok=True)
        for name in (CHECKPOINTS, MERGED, GLIMPSE):
            shutil.rmtree(out / name, ignore_errors=True)
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        differ = [
            f"{name} was {before.get(name)!r} and is {value!r}"
            for name, value in recipe.to_dict().items()
            if name not in FREE and before.get(name) != value
        ]
        if differ:
            raise ConfigError(
                f"{out} holds another run ({'; '.join(differ):.400}): give its recipe, another --out, or --restart"
            )
        return
    if (out / CURVE).exists() or (out / CHECKPOINTS).exists():
        raise ConfigError(f"{out} holds a run, but no {RECIPE} says of what: pass --restart or another --out")
    TrainingFolder(out).write(RECIPE, json.dumps(recipe.to_dict(), indent=2) + "\n")


def _reinforce(
    recipe: GlimpsePlusRecipe,
    out: Path,
    rewards: Mapping[str, Reward],
    check: bool,
    device: str | None,
    about: Mapping[str, Any],
    tell: TellStep,
) -> None:
    """Do the first half: up to the merged model and its record."""
    from accelerate import PartialState

    def checking(what: str, done: int, total: int) -> None:
        tell(what, done, total, {})

    opened = {
        name: open_entries(name, given, skip_bad=recipe.skip_bad, check=check, tell=checking)
        for name, given in (("data", recipe.data), ("eval_data", recipe.eval_data))
    }
    data, eval_data = opened["data"], opened["eval_data"]
    assert data is not None  # a recipe lists at least one entry
    if len(data) < recipe.questions_per_step:
        raise ConfigError(
            f"a step takes {recipe.questions_per_step} questions and the data has {len(data)}: lower questions_per_step"
        )
    state = PartialState()
    folder, own = TrainingFolder(out), recipe.glimpse_recipe(recipe.model_path)
    check_own_reading(source_of(own.model_path), {})
    model, preprocessor = load_base(own, str(state.device))
    assert isinstance(preprocessor, Preprocessor)
    layer = facts_for(model, own).reduce_layer if recipe.pruning_layer is None else recipe.pruning_layer
    reader = PromptReader(data, preprocessor, recipe.max_pixels)
    adapted_count = len(adapted_layers(model))
    trainer = _make_trainer(recipe, out, reader, model, layer, rewards, state, device)
    begun = time.monotonic()

    def held_out(when: str) -> None:
        if eval_data is None or not state.is_main_process:
            return
        from prunevid_qwen.training.glimpse_plus.held_out import measure

        looked_at = PromptReader(eval_data, preprocessor, recipe.max_pixels)
        done = sum(line["when"] == when for line in folder.lines(HELD_OUT))
        progress = lambda number, total: tell(f"held out, {when}", number, total, {})  # noqa: E731
        for line in measure(trainer, looked_at, recipe, rewards, when, done, progress):
            folder.add(HELD_OUT, line)

    held_out("before")
    _run(trainer, folder, state, tell)
    held_out("after")
    state.wait_for_everyone()
    if state.is_main_process:
        source = model.name_or_path if is_bundled(own.model_path) else own.model_path
        trained = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
        steps, adapted = trainer.state.global_step, trainer.accelerator.unwrap_model(trainer.model)
        write_merged(adapted, source, preprocessor, out / MERGED)
        record = {
            "recipe": recipe.to_dict(),
            "pruning_layer": layer,
            "records": len(data),
            "steps": steps,
            "trained_parameters": trained,
            "adapted_layers": adapted_count,
            "seconds": round(time.monotonic() - begun, 1),
            "processes": state.num_processes,
            "device": str(state.device),
            "versions": {**versions(), **{name: _version(name) for name in (*LIBRARIES, "accelerate")}},
            **about,
        }
        folder.write(RECORD, json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n")
    state.wait_for_everyone()


def _make_trainer(
    recipe: GlimpsePlusRecipe,
    out: Path,
    reader: PromptReader,
    model: Any,
    layer: int,
    rewards: Mapping[str, Reward],
    state: Any,
    device: str | None,
) -> Any:
    from prunevid_qwen.training.glimpse_plus.trainer import PrunedGRPOTrainer, grpo_config

    pruning = box_config(layer).replace(max_keep_ratio=recipe.max_keep_ratio)
    cpu = str(device or "").startswith("cpu")
    return PrunedGRPOTrainer(
        reader=reader,
        pruning=pruning,
        draw_batch=recipe.draw_batch or recipe.per_device_batch,
        model=model,
        reward_funcs=list(rewards.values()),
        args=grpo_config(recipe, str(out / CHECKPOINTS), state.num_processes, cpu),
        peft_config=lora_config(model, recipe),
    )


def _run(trainer: Any, folder: TrainingFolder, state: Any, tell: TellStep) -> None:
    """Train from the last checkpoint to the end."""
    from transformers.trainer_utils import get_last_checkpoint

    from prunevid_qwen.training.glimpse_plus.trainer import Curve

    checkpoints = Path(trainer.args.output_dir)
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    if state.is_main_process:
        folder.cut(0 if last is None else int(Path(last).name.split("-")[-1]))
    state.wait_for_everyone()

    def add(line: dict[str, Any]) -> None:
        if state.is_main_process:
            folder.add(CURVE, line)

    with between_steps() as asked_to_stop:
        trainer.add_callback(
            Curve(add, asked_to_stop, lambda step, steps, line: tell("reinforcement", step, steps, line))
        )
        trainer.train(resume_from_checkpoint=last)
        if number := asked_to_stop():
            raise interruption(number)


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)
