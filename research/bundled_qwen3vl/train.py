"""Train the second toy: its vision tower beside the first toy's, then its decoder beside the first toy's and alone.

Every step's batch follows from (seed, phase, step), so a run that was interrupted goes on exactly where it was.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from prunevid_qwen.loading import bundled_model
from prunevid_qwen.processes.interruption import (
    between_steps,
    interruption,
    leave_signals_to_parent,
    starting_processes,
)
from research.bundled_model.phases import VisionPhase
from research.bundled_qwen3vl.architecture import build_model
from research.bundled_qwen3vl.vision import VisionTraining, vision_heads

_log = logging.getLogger(__name__)
_REPORT_EVERY = 25
_SAVE_EVERY = 200
Phase = VisionPhase


@dataclass
class TrainingState:
    """Everything that a run is, apart from its options.

    Args:
        model: the library's model.
        heads: what the vision tower is trained through; thrown away in the end.
        phase: index into the phases.
        step: steps done in it.
        seconds: time spent so far.
        optimizer: the phase's, or None before its first step.
        recent: figures since the last report.
    """

    model: Any
    heads: nn.ModuleDict
    phase: int = 0
    step: int = 0
    seconds: float = 0.0
    optimizer: torch.optim.Optimizer | None = None
    recent: dict[str, deque[float]] = field(default_factory=dict)


def train(
    out: Path,
    phases: tuple[Phase, ...],
    seed: int = 0,
    resume: bool = True,
    steps: int | None = None,
    minutes: float | None = None,
    workers: int = 1,
    report: Callable[[str, int, int, str], None] | None = None,
) -> tuple[Any, bool]:
    """Run the phases in order.

    Args:
        out: folder for ``checkpoint.pt`` and ``curve.jsonl``; made if missing.
        phases: what to train.
        seed: of the parameters and of all videos and questions.
        resume: go on from the folder's checkpoint if there is one.
        steps: stop (with a checkpoint) after so many steps of this call.
        minutes: stop (with a checkpoint) after so many minutes of this call.
        workers: processes that make batches; 0 makes them in this one.
        report: called with phase, step, steps of the phase and a line of figures.

    Returns: the model, and whether the last phase was finished.

    Raises:
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; the step is finished and saved, the same call goes on.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    teacher = Qwen2_5_VLForConditionalGeneration.from_pretrained(bundled_model(), dtype=torch.float32).eval()
    teacher.requires_grad_(False)
    out.mkdir(parents=True, exist_ok=True)
    state = _start(out, seed, resume, phases, teacher)
    begun, done = time.monotonic() - state.seconds, 0
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    with ExitStack() as stack:
        asked_to_stop = stack.enter_context(between_steps())
        stack.callback(_save, out, state)  # also where `report` raises: a step is either done or not
        while state.phase < len(phases):
            phase = phases[state.phase]
            training = _training(phase, state, teacher)
            for batch in _loaded(training.batches((seed, state.phase)), state.step, phase.steps, workers):
                figures = _update(state, phase, training, batch)
                state.step += 1
                state.seconds = time.monotonic() - begun
                done += 1
                _report(out, state, phase, figures, report)
                if state.step % _SAVE_EVERY == 0 or state.step == phase.steps:
                    _save(out, state)
                if number := asked_to_stop():
                    raise interruption(number)
                if done == steps or (deadline is not None and time.monotonic() > deadline):
                    return state.model, state.phase == len(phases) - 1 and state.step == phase.steps
            training.finish()
            state.phase, state.step, state.optimizer = state.phase + 1, 0, None
            _save(out, state)
    return state.model, True


def _training(phase: Phase, state: TrainingState, teacher: Any) -> Any:
    return VisionTraining(phase, state.model, state.heads, teacher)


def _start(out: Path, seed: int, resume: bool, phases: tuple[Phase, ...], teacher: Any) -> TrainingState:
    """Make the parameters, or take the state from the folder's checkpoint."""
    model = build_model(seed)
    levels = len(model.config.vision_config.deepstack_visual_indexes)
    state = TrainingState(model, vision_heads(model.config.text_config.hidden_size, levels))
    path = out / "checkpoint.pt"
    if not (resume and path.exists()):
        (out / "curve.jsonl").unlink(missing_ok=True)
        return state
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    state.heads.load_state_dict(saved["heads"])
    state.phase, state.step, state.seconds = saved["phase"], saved["step"], saved["seconds"]
    if saved["optimizer"] is not None:
        state.optimizer = _optimizer(_training(phases[state.phase], state, teacher))
        state.optimizer.load_state_dict(saved["optimizer"])
    _log.info("going on at step %d of phase %d", state.step, state.phase)
    return state


def _save(out: Path, state: TrainingState) -> None:
    """Write the checkpoint so that an interruption leaves the old one or the new one, never half of one."""
    saved = {
        "model": state.model.state_dict(),
        "heads": state.heads.state_dict(),
        "optimizer": None if state.optimizer is None else state.optimizer.state_dict(),
        "phase": state.phase,
        "step": state.step,
        "seconds": state.seconds,
    }
    torch.save(saved, out / "checkpoint.partial")
    os.replace(out / "checkpoint.partial", out / "checkpoint.pt")


def _optimizer(training: Any) -> torch.optim.Optimizer:
    """AdamW on what the phase trains; vectors (norms, biases) are not decayed."""
    parameters = training.parameters()
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": training.decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def _loaded(data: Dataset[Any], first: int, last: int, workers: int) -> Iterator[Any]:
    """Give the batches from step ``first`` on."""
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        prefetch_factor=6 if workers else None,
        collate_fn=None,
        worker_init_fn=leave_signals_to_parent,
    )
    with starting_processes():
        return iter(loader)


def _update(state: TrainingState, phase: Phase, training: Any, batch: Any) -> dict[str, list[float]]:
    """Do one step; returns its figures and the loss."""
    if state.optimizer is None:
        state.optimizer = _optimizer(training)
    progress = state.step / (phase.decay_steps or phase.steps)
    rate = min(1.0, (state.step + 1) / phase.warmup) * (0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * progress)))
    for group in state.optimizer.param_groups:
        group["lr"] = phase.learning_rate * float(rate)
    with torch.autocast("cpu", torch.bfloat16):
        loss, figures = training.loss(batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    figures["loss"] = [float(loss.detach())]
    return figures


def _report(
    out: Path,
    state: TrainingState,
    phase: Phase,
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
