"""Train the bundled model from nothing: first its vision tower, then its decoder on questions and answers.

No attention is supervised anywhere. Every step's batch follows from (seed, phase, step), so a run that was interrupted
goes on exactly where it was.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from prunevid_qwen.processes.interruption import (
    between_steps,
    interruption,
    leave_signals_to_parent,
    starting_processes,
)
from research.bundled_model.architecture import deepen
from research.bundled_model.batches import (
    QuestionBatch,
    QuestionBatches,
    VisionBatch,
    VisionBatches,
)
from research.bundled_model.checkpoint import TrainingState, optimizer_of, save, start
from research.bundled_model.fast_forward import answer_states, vision_features
from research.bundled_model.phases import DeepenPhase, Phase, QuestionPhase, TrainedPhase, VisionPhase
from research.bundled_model.schedule import PHASES
from research.bundled_model.sequence import AFTER_VIDEO, PREFIX
from research.bundled_model.tokenizer import VOCABULARY

_BACKGROUND_WEIGHT = 0.25  # of a background token in the vision tower's loss: most tokens are background
_RANK_LAYER = 1  # words are matched with visual tokens from the third layer on
_END_WEIGHT = 0.05  # of the token after the answer
_REPORT_EVERY = 25
_SAVE_EVERY = 200


def train(
    out: Path,
    phases: tuple[Phase, ...] = PHASES,
    seed: int = 0,
    resume: bool = True,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    workers: int = 1,
    report: Callable[[str, int, int, str], None] | None = None,
    weights: Path | None = None,
    begin: str | None = None,
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

    Returns: the model, and whether the last phase was finished.

    Raises:
        ValueError: no phase is called ``begin``.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; the step is finished and saved, the same call goes on.
    """
    names = [phase.name for phase in phases]
    if begin is not None and begin not in names:
        raise ValueError(f"no phase is called {begin!r}; there are {', '.join(names)}")
    out.mkdir(parents=True, exist_ok=True)
    state = start(out, seed, resume, device, weights, names.index(begin) if begin else 0)
    begun, done = time.monotonic() - state.seconds, 0
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    with ExitStack() as stack:
        asked_to_stop = stack.enter_context(between_steps())
        stack.callback(save, out, state)  # also where `report` raises: a step is either done or not
        while state.phase < len(phases):
            phase = phases[state.phase]
            if isinstance(phase, DeepenPhase):
                deepen(state.model, phase.layers, seed)
                _finish_phase(state, phase)
                continue
            for batch in _batches(phase, (seed, state.phase), state, workers):
                figures = _update(state, phase, batch, device)
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


def _batches(phase: TrainedPhase, key: tuple[int, int], state: TrainingState, workers: int) -> Iterator[Any]:
    """The phase's batches from the current step on."""
    data: VisionBatches | QuestionBatches
    if isinstance(phase, VisionPhase):
        data = VisionBatches(phase, key)
    else:
        data = QuestionBatches(phase, key, state.model.model.visual)
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_size=None,
        sampler=range(state.step, phase.steps),
        num_workers=workers,
        prefetch_factor=6 if workers else None,
        collate_fn=None,
        worker_init_fn=leave_signals_to_parent,
    )
    with starting_processes():
        return iter(loader)


def _update(state: TrainingState, phase: TrainedPhase, batch: Any, device: str) -> dict[str, list[float]]:
    """Do one step; returns the right and wrong answers by type, and the loss."""
    if state.optimizer is None:
        state.optimizer = optimizer_of(state, isinstance(phase, VisionPhase))
    progress = state.step / (phase.decay_steps or phase.steps)
    rate = min(1.0, (state.step + 1) / phase.warmup) * (0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * progress)))
    for group in state.optimizer.param_groups:
        group["lr"] = phase.learning_rate * float(rate)
    with torch.device(device), torch.autocast(torch.device(device).type, torch.bfloat16):
        if isinstance(phase, VisionPhase):
            loss, figures = _vision_loss(state, batch)
        else:
            loss, figures = _question_loss(state, batch, phase)
    loss.backward()
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    figures["loss"] = [float(loss.detach())]
    return figures


def _vision_loss(state: TrainingState, batch: VisionBatch) -> tuple[Tensor, dict[str, list[float]]]:
    """Cross-entropy of colour, shape and direction in every merged token."""
    height, width = batch.grid
    features = vision_features(state.model.model.visual, batch.patches, height, width)
    loss, figures = torch.zeros(()), {}
    for name, head in state.heads.items():
        logits = head(features).float().flatten(0, 1)
        labels = getattr(batch, name).flatten()
        weights = torch.ones(logits.shape[-1])
        weights[0] = _BACKGROUND_WEIGHT
        loss = loss + F.cross_entropy(logits, labels, weight=weights)
        right = logits.argmax(-1) == labels
        figures[name] = [float(right[labels > 0].float().mean())]
    figures["background"] = [float(right[labels == 0].float().mean())]
    return loss, figures


def _question_loss(
    state: TrainingState, batch: QuestionBatch, phase: QuestionPhase
) -> tuple[Tensor, dict[str, list[float]]]:
    """Cross-entropy of the answer, a little of the end of the turn after it, and of what the phase adds."""
    embed, blocks = state.model.model.language_model.embed_tokens, batch.blocks
    videos, count, _ = blocks.ids.shape
    around = [embed(torch.tensor(ids)).expand(videos, -1, -1) for ids in (PREFIX, AFTER_VIDEO)]
    prefix = torch.cat([around[0], batch.features, around[1]], 1)
    tap: list[Tensor] = []
    states = answer_states(state.model, prefix, blocks.ids, batch.positions, tap)

    def loss_at(places: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:  # [B, N] each
        b, n = torch.meshgrid(torch.arange(videos), torch.arange(count), indexing="ij")
        logits = state.model.lm_head(states[b, n, places]).float().flatten(0, 1)
        return F.cross_entropy(logits, wanted.flatten()), logits.argmax(-1) == wanted.flatten()

    loss, right = loss_at(blocks.asked_at, blocks.answers)
    end = torch.full_like(blocks.answers, VOCABULARY["<|im_end|>"])
    loss = loss + _END_WEIGHT * loss_at(blocks.asked_at + 1, end)[0]
    figures: dict[str, list[float]] = {}
    if phase.hint_weight:
        for k in range(2):
            if (blocks.hints[..., k] >= 0).any():
                loss = loss + phase.hint_weight * loss_at(blocks.hints_at[..., k], blocks.hints[..., k])[0]
    if phase.rank_weight:
        logits = state.rank_head(tap[_RANK_LAYER][:, len(PREFIX) : prefix.shape[1] - len(AFTER_VIDEO)]).float().flatten(0, 1)
        ranks, weights = batch.ranks.flatten(), torch.ones(logits.shape[-1])
        weights[0] = _BACKGROUND_WEIGHT
        loss = loss + phase.rank_weight * F.cross_entropy(logits, ranks, weight=weights)
        figures["rank"] = [float((logits.argmax(-1) == ranks)[ranks > 0].float().mean())]
    for kind, hit in zip((kind for row in batch.types for kind in row), right.tolist(), strict=True):
        figures.setdefault(kind, []).append(float(hit))
    return loss, figures


def _finish_phase(state: TrainingState, phase: Phase) -> None:
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
