"""Train a glimpse predictor on a frozen model (GlimpsePrune, arXiv 2508.01548), on one device or several.

Every process holds the whole frozen model and a share of each step's samples; gradients are averaged by accelerate.
What a step does follows from the recipe and its number alone (`steps`), so a run that was killed goes on from its last
checkpoint to the figures it would have had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.processes.interruption import between_steps, interruption
from prunevid_qwen.receipt import versions
from prunevid_qwen.training.glimpse.base import facts_for, load_base, make_trainee
from prunevid_qwen.training.glimpse.batches import TrainingBatch
from prunevid_qwen.training.glimpse.figures import Figures, loss_of
from prunevid_qwen.training.glimpse.opened import look_at, open_recipe, refuse_bad, usable
from prunevid_qwen.training.glimpse.reading import Reader
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from prunevid_qwen.training.glimpse.records import BoxData
from prunevid_qwen.training.glimpse.records_check import CheckReport
from prunevid_qwen.training.glimpse.steps import (
    count_steps,
    forwards_of,
    learning_rate,
    schedule,
)
from prunevid_qwen.training.glimpse.trainee import GlimpseTraining
from prunevid_qwen.training.glimpse.training_folder import CURVE, EVALUATION, MODEL, TrainingFolder

TellStep = Callable[[str, int, int, Mapping[str, float]], None]
"""Told what is done, how far it is, of how much, and the newest figures."""


def train(
    recipe: GlimpseRecipe,
    out: Path,
    *,
    restart: bool = False,
    check: bool = True,
    device: str | None = None,
    about: Mapping[str, Any] | None = None,
    tell: TellStep | None = None,
) -> dict[str, Any]:
    """Train, or go on with what the folder holds, and write the predictor.

    Under ``accelerate launch`` every process calls this; the folder is one that all of them see.

    Args:
        recipe: all that decides what comes out.
        out: folder for checkpoint, curves, ``train.json`` and, in the end, ``model/``.
        restart: throw away what the folder holds.
        check: look at all records before the model is loaded.
        device: "cpu" leaves a GPU alone; None takes what accelerate finds.
        about: written into ``train.json`` too, such as the command and the commit.
        tell: called in the main process as the work goes on.

    Returns: what ``train.json`` holds.

    Raises:
        ConfigError: a recipe that fits neither the model nor the processes, or a folder that holds another run.
        MediaError: data that cannot be trained on.
        SetupError: model, device or network are not there.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; the step is finished and saved, the same call goes on.
    """
    run = _Run(recipe, TrainingFolder(out), device, tell)
    if restart and run.main:
        run.folder.clear()
    run.accelerator.wait_for_everyone()
    run.open(check)
    run.begin()
    run.train()
    return run.finish(about or {})


class _Run:
    """One process of a run."""

    def __init__(
        self, recipe: GlimpseRecipe, folder: TrainingFolder, device: str | None, tell: TellStep | None
    ) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedType as Kind

        self.recipe, self.folder = recipe, folder
        self.accelerator = Accelerator(mixed_precision=recipe.precision, cpu=str(device or "").startswith("cpu"))
        self.main, self.processes = self.accelerator.is_main_process, self.accelerator.num_processes
        self.tell: TellStep = tell if tell is not None and self.main else (lambda *_: None)
        if self.accelerator.distributed_type in (Kind.DEEPSPEED, Kind.FSDP, Kind.MEGATRON_LM):
            raise UnsupportedError(
                f"accelerate is configured for {self.accelerator.distributed_type.value}, which divides what is "
                "trained over processes. The predictor is small: launch with --multi_gpu, or without a configuration"
            )
        self.own = forwards_of(recipe, self.accelerator.process_index, self.processes)  # refuses before anything loads

    # ---- beginning

    def open(self, check: bool) -> None:
        """Open the data, and look at it in the main process, which tells the others what is usable."""
        from accelerate.utils import broadcast_object_list

        opened = open_recipe(self.recipe)
        reports: list[dict[str, CheckReport]] = [{}]
        if check and self.main:
            reports = [look_at(opened, lambda what, done, total: self.tell(what, done, total, {}))]
            refuse_bad(self.recipe, reports[0])
        if self.processes > 1:
            broadcast_object_list(reports)
        opened = usable(opened, reports[0])
        self.data = opened["data"]
        self.eval_data: BoxData | None = opened.get("eval_data")
        self.steps = count_steps(self.recipe, len(self.data))

    def begin(self) -> None:
        """Load the model, make what is trained, and take it from the checkpoint if there is one."""
        recipe = self.recipe
        model, self.preprocessor = load_base(recipe, str(self.accelerator.device))
        self.reader = Reader(recipe, self.data, self.preprocessor)
        self.facts = facts_for(model, recipe)
        self.about = {"recipe": recipe.to_dict(), "facts": self.facts.to_json(), "records": len(self.data)}
        self.trainee = make_trainee(model, self.facts, recipe)
        saved = self.folder.load(self.about)
        if saved is not None:
            self.trainee.load_state_dict(saved["trainee"])
        optimizer = torch.optim.AdamW(
            self.trainee.parameters(),
            lr=recipe.learning_rate,
            betas=recipe.betas[:2],  # type: ignore[arg-type]
            eps=recipe.epsilon,
            weight_decay=recipe.weight_decay,
        )
        self.module = GlimpseTraining(model, self.trainee)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.module, optimizer)
        self.step, self.spent, self.window = 0, 0.0, Figures()
        if saved is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.spent = saved["step"], saved["seconds"]
            if self.main:
                self.window = Figures.of(saved["window"])
        self.nothing_left = self.step == self.steps
        if self.main:
            self.folder.cut(self.step)
        self.begun = time.monotonic() - self.spent

    # ---- steps

    def train(self) -> None:
        """Do all steps that are left; save now and then, at the end, and when a signal comes."""
        rank = self.accelerator.process_index
        batches = self.reader.run(list(schedule(self.recipe, self.step, self.steps, rank, self.processes)))
        self.tell("training", self.step, self.steps, {})
        with between_steps() as asked_to_stop:
            while self.step < self.steps:
                self._update(batches)
                self._log()
                if self._due(self.recipe.eval_every):
                    self.evaluate()
                stop = self._all_told(bool(asked_to_stop()))
                if stop or self._due(self.recipe.save_every):
                    self.save()
                if stop:
                    raise interruption(asked_to_stop())

    def _update(self, batches: Iterator[TrainingBatch]) -> None:
        """Do one step."""
        self.wrapped.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step, self.steps)
        for forward in self.own:
            last = forward == self.own[-1]
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                outcome = self.wrapped(next(batches).to(self.accelerator.device))
                loss, dice, bce = loss_of(self.recipe, outcome)
                self.accelerator.backward(loss / len(self.own))  # of all processes the mean is taken
            if not loss.isfinite():
                raise ConfigError(
                    f"the loss of step {self.step + 1} is {loss.item()}: lower learning_rate, or compute with "
                    f"precision: 'no'. {self.folder.path} keeps its last checkpoint"
                )
            self.window.add(outcome, dice, bce)
        self.accelerator.clip_grad_norm_(self.trainee.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

    def _log(self) -> None:
        """Write a line of the curve, the mean since the last one."""
        line: dict[str, Any] = {}
        if self._due(self.recipe.log_every):
            figures = self._summed(self.window)
            self.window = Figures()
            rate = learning_rate(self.recipe, self.step - 1, self.steps)
            line = {"step": self.step, "lr": rate, **figures.line(), "seconds": round(self._seconds(), 3)}
            if self.main:
                self.folder.add(CURVE, line)
        self.tell("training", self.step, self.steps, line)

    def _due(self, every: int | None) -> bool:
        return self.step == self.steps or (every is not None and self.step % every == 0)

    def _seconds(self) -> float:
        return time.monotonic() - self.begun

    # ---- what processes tell each other

    def _summed(self, figures: Figures) -> Figures:
        if self.processes == 1:
            return figures
        numbers = torch.tensor(figures.numbers(), dtype=torch.float64, device=self.accelerator.device)
        return Figures.of(self.accelerator.reduce(numbers, "sum").tolist())

    def _all_told(self, mine: bool) -> bool:
        if self.processes == 1:
            return mine
        told = torch.tensor(int(mine), device=self.accelerator.device)
        return bool(self.accelerator.reduce(told, "sum").item())

    # ---- what is left behind

    @torch.no_grad()
    def evaluate(self) -> None:
        """Look at the held-out records without dropout, and write a line."""
        if self.eval_data is None:
            return
        count = min(len(self.eval_data), self.recipe.eval_samples or len(self.eval_data))
        size, figures = self.recipe.eval_batch, Figures()
        reader = Reader(self.recipe, self.eval_data, self.preprocessor)
        starts = range(self.accelerator.process_index * size, count, self.processes * size)
        self.module.eval()  # not the wrapped one: processes may have different numbers of forwards to do
        for done, start in enumerate(starts):
            self.tell("evaluating", done, len(starts), {})
            batch = reader.some(list(range(start, min(start + size, count))))
            outcome = self.module(batch.to(self.accelerator.device))
            figures.add(outcome, *loss_of(self.recipe, outcome)[1:])
        line = {"step": self.step, "samples": count, **self._summed(figures).line()}
        if self.main:
            self.folder.add(EVALUATION, line)
        self.tell("evaluating", len(starts), len(starts), line)

    def save(self) -> None:
        """Write the checkpoint."""
        window = self._summed(self.window)
        if self.main:
            self.folder.save(
                {
                    "about": self.about,
                    "trainee": self.trainee.state_dict(),
                    "eps": self.trainee.le_norm.eps,
                    "optimizer": self.optimizer.state_dict(),
                    "step": self.step,
                    "seconds": self._seconds(),
                    "window": window.numbers(),
                }
            )

    def finish(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """Write the predictor and what there is to say of the run, unless a call before this one has."""
        written = self.folder.record()
        if self.nothing_left and written is not None:
            return written
        record = {
            "recipe": self.recipe.to_dict(),
            "facts": asdict(self.facts),
            "records": len(self.data),
            "steps": self.steps,
            "trained_parameters": sum(parameter.numel() for parameter in self.trainee.parameters()),
            "training": self.folder.lines(CURVE)[-1:],
            "evaluation": self.folder.lines(EVALUATION)[-1:],
            "seconds": round(self._seconds(), 1),
            "processes": self.processes,
            "device": _name(self.accelerator.device),
            "versions": {**versions(), "accelerate": _accelerate_version()},
            **about,
        }
        if self.main:
            self.trainee.cpu().to_predictor().save_pretrained(self.folder.path / MODEL)
            self.folder.write_record(record)
        self.accelerator.wait_for_everyone()
        return record


def _name(device: torch.device) -> str:
    return f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def _accelerate_version() -> str:
    from importlib.metadata import version

    return version("accelerate")
