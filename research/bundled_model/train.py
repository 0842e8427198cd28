"""Train a toy: first its vision tower, then its decoder on questions and answers.

No attention is supervised anywhere. Every step's batch follows from (seed, phase, step), so a run that was interrupted
goes on exactly where it was.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from prunevid_qwen.processes.interruption import (
    between_steps,
    interruption,
    leave_signals_to_parent,
    starting_processes,
)
from research.bundled_model.checkpoint import Recipe, TrainingState, optimizer_of, save, start
from research.bundled_model.phases import TrainedPhase, VisionPhase
from research.bundled_model.recipe import FirstToy
from research.bundled_model.schedule import PHASES

FIRST_TOY = FirstToy()
_REPORT_EVERY = 25
_SAVE_EVERY = 200


def train(
    out: Path,
    phases: Sequence[Any] = PHASES,
    seed: int = 0,
    resume: bool = True,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    workers: int = 1,
    report: Callable[[str, int, int, str], None] | None = None,
    weights: Path | None = None,
    begin: str | None = None,
    recipe: Recipe = FIRST_TOY,
) -> tuple[Any, bool]:
    """Run the phases in order.

    Args:
        out: folder for ``checkpoint.pt`` and ``curve.jsonl``; made if missing.
        phases: what to train.
        seed: of the parameters and of all videos and questions.
        resume: go on from the folder's checkpoint if there is one.
        steps: stop (with a checkpoint) after so many steps of this call.
        minutes: stop (with a checkpoint) after so many minutes of this call.
        device: where the decoder is trained.
        workers: processes that make batches; 0 makes them in this one.
        report: called with phase, step, steps of the phase and a line of figures.
        weights: folder of an exported model to begin with instead of fresh parameters.
        begin: name of the phase that ``weights`` are given to; the first one if left out.
        recipe: of the toy that is trained.

    Returns: the model, and whether the last phase was finished.

    Raises:
        ValueError: no phase is called ``begin``.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; the step is finished and saved, the same call goes on.
    """
    names = [phase.name for phase in phases]
    if begin is not None and begin not in names:
        raise ValueError(f"no phase is called {begin!r}; there are {', '.join(names)}")
    out.mkdir(parents=True, exist_ok=True)
    state = start(out, recipe, seed, resume, device, weights, names.index(begin) if begin else 0)
    begun, done = time.monotonic() - state.seconds, 0
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    with ExitStack() as stack:
        asked_to_stop = stack.enter_context(between_steps())
        stack.callback(save, out, state)  # also where `report` raises: a step is either done or not
        while state.phase < len(phases):
            phase = phases[state.phase]
            if not phase.steps:
                recipe.change(state.model, phase, seed)
                _finish_phase(state, phase)
                continue
            data = recipe.batches(phase, (seed, state.phase), state.model)
            for batch in _loaded(data, range(state.step, phase.steps), workers):
                figures = _update(state, phase, batch, device, recipe)
                state.step += 1
                state.seconds = time.monotonic() - begun
                done += 1
                _report(out, state, phase, figures, report)
                if state.step % _SAVE_EVERY == 0 or state.step == phase.steps:
                    save(out, state)
                if number := asked_to_stop():
                    raise interruption(number)
                if done == steps or (deadline is not None and time.monotonic() > deadline):
                    return state.model, state.phase == len(phases) - 1 and state.step == phase.steps
            _finish_phase(state, phase)
            save(out, state)
    return state.model, True


def _loaded(data: Dataset[Any], steps: range, workers: int) -> Iterator[Any]:
    """Give the batches of some steps."""
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=6 if workers else None,
        collate_fn=None,
        worker_init_fn=leave_signals_to_parent,
    )
    with starting_processes():
        return iter(loader)


def _update(
    state: TrainingState, phase: TrainedPhase, batch: Any, device: str, recipe: Recipe
) -> dict[str, list[float]]:
    """Do one step; returns the right and wrong answers by type, and the loss."""
    if state.optimizer is None:
        state.optimizer = optimizer_of(state, isinstance(phase, VisionPhase))
    progress = state.step / (phase.decay_steps or phase.steps)
    rate = min(1.0, (state.step + 1) / phase.warmup) * (0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * progress)))
    for group in state.optimizer.param_groups:
        group["lr"] = phase.learning_rate * float(rate)
    with torch.device(device), torch.autocast(torch.device(device).type, torch.bfloat16):
        loss, figures = recipe.loss(state, phase, batch)
    loss.backward()
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    figures["loss"] = [float(loss.detach())]
    return figures


def _finish_phase(state: TrainingState, phase: Any) -> None:
    """Go to the next phase; a trained vision tower is rounded to what will be shipped before anything builds on it."""
    if isinstance(phase, VisionPhase):
        with torch.no_grad():
            for parameter in state.model.model.visual.parameters():
                parameter.copy_(parameter.bfloat16().float())
    state.phase, state.step, state.optimizer = state.phase + 1, 0, None
    state.recent.clear()


def _report(
    out: Path,
    state: TrainingState,
    phase: TrainedPhase,
    figures: dict[str, list[float]],
    report: Callable[..., None] | None,
) -> None:
    """Collect figures and write a line of the learning curve now and then."""
    for name, values in figures.items():
        state.recent.setdefault(name, deque(maxlen=2000 if name != "loss" else _REPORT_EVERY)).extend(values)
    if state.step % _REPORT_EVERY and state.step != phase.steps:
        return
    means = {name: round(float(np.mean(values)), 4) for name, values in sorted(state.recent.items())}
    line = {"phase": phase.name, "step": state.step, "seconds": round(state.seconds, 1), **means}
    with (out / "curve.jsonl").open("a") as curve:
        curve.write(json.dumps(line) + "\n")
    state.recent.clear()
    if report is not None:
        report(phase.name, state.step, phase.steps, " ".join(f"{name} {value:.3f}" for name, value in means.items()))
