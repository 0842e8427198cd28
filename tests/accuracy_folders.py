"""A small run of the accuracy benchmark made by hand: answers that are known, without a model."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

Line = dict[str, Any]
TYPES = ("color", "count", "last")


def line(seed: int, question: int, method: str, budget: float | None, correct: bool, **changed: Any) -> Line:
    """One answer; even seeds are plain, odd ones shake."""
    kept = 1.0 if budget is None else budget / 2
    return {
        "seed": seed,
        "condition": "shake" if seed % 2 else "plain",
        "question": question,
        "type": TYPES[question % len(TYPES)],
        "multiple_choice": question >= 3,
        "text": f"What is it, {question}?",
        "expected": "red",
        "given": "red" if correct else "blue",
        "correct": correct,
        "method": method,
        "budget": budget,
        "visual": 128,
        "tokens": [64, 64],
        "layer_average": 1.0 if budget is None else budget,
        "retained": kept,
        "evidence": 10,
        "evidence_kept": min(1.0, 3 * kept),
        "kept": kept,
        "random_seed": None,
        **changed,
    }


def cell(method: str, budget: float | None, condition: str, why: str = "") -> Line:
    status = "unreachable" if why else "ok"
    config = {"keep_ratio": budget}
    return {
        "method": method,
        "budget": budget,
        "condition": condition,
        "config": config,
        "achieved": budget,
        "status": status,
        "why": why,
    }


def small_run(videos: int = 8) -> tuple[list[Line], Line]:
    """Six questions a video: lines and run.json.

    Unpruned all are right but question 5; of a grey video question 0 alone. prunevid at 16 %: as unpruned;
    at 10 %: question 2 wrong too. random: 0 to 2 right under one of three random seeds, the others never. fewer frames:
    on plain videos alone.
    """
    lines = []
    for seed in range(videos):
        for question in range(6):
            right = question != 5
            lines.append(line(seed, question, "unpruned", None, right))
            lines.append(line(seed, question, "blank", None, question == 0, evidence_kept=None))
            lines.append(line(seed, question, "prunevid", 0.16, right))
            lines.append(line(seed, question, "prunevid", 0.1, right and question != 2))
            lines += [
                line(seed, question, "random", 0.16, question < 3 and chance == seed % 3, random_seed=chance)
                for chance in range(3)
            ]
            if seed % 2 == 0:
                bare = {"evidence_kept": None, "kept": None, "retained": None}
                lines.append(line(seed, question, "fewer frames", 0.16, right or seed == 0, **bare))
    cells = [cell(name, None, c) for name in ("unpruned", "blank") for c in ("plain", "shake")]
    cells += [cell("prunevid", b, c) for b in (0.16, 0.1) for c in ("plain", "shake")]
    cells += [cell("random", 0.16, c) for c in ("plain", "shake")]
    cells += [cell("fewer frames", 0.16, "plain"), cell("fewer frames", 0.16, "shake", "no such number of frames")]
    cells += [cell("stage 2", 0.16, c, "layer 0 of 2 runs whole: at least 50 %") for c in ("plain", "shake")]
    run = {
        "command": "python eval/moving_shapes.py --videos 8",
        "commit": "0123abc",
        "versions": {"torch": "2.13.0"},
        "options": {"videos": videos},
        "seeds": [0, videos - 1],
        "minutes": 1.5,
        "cells": cells,
    }
    return lines, run


def write_run(folder: Path, lines: list[Line], run: Line, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in lines)
    if packed:
        with lzma.open(folder / "answers.jsonl.xz", "wt", encoding="utf-8") as file:
            file.write(text)
    else:
        (folder / "answers.jsonl").write_text(text)
    (folder / "run.json").write_text(json.dumps(run))
    return folder
