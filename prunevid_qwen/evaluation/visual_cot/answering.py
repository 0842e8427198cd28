"""Answering: every sample under every config, each raw answer on a line of its own as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.errors import MediaError
from prunevid_qwen.evaluation.accuracy_folder import ANSWERS
from prunevid_qwen.evaluation.visual_cot.folder import Line, add_line, whole_lines
from prunevid_qwen.evaluation.visual_cot.images import image_path, lacks
from prunevid_qwen.evaluation.visual_cot.records import Sample

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done and how much there is."""

MAX_NEW_TOKENS = 1024
"""The limit in GlimpsePrune's evaluation."""

BRIEF = "Answer the question using a single word or phrase."
"""What LLaVA-1.5 made usual for short answers, and GlimpsePrune appends on request."""

# The most probable token, whatever the checkpoint's generation_config prefers: no temperature, nucleus or repetition
# penalty, as in GlimpsePrune's evaluation.
_GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "temperature": None,
    "top_p": None,
    "top_k": None,
}


def answer_all(
    folder: Path,
    samples: Sequence[Sample],
    configs: Sequence[str],
    load: Callable[[], Mapping[str, Any]],
    root: Path,
    suffix: str = "",
    max_new_tokens: int = MAX_NEW_TOKENS,
    tell: Progress = lambda *_: None,
) -> None:
    """Ask what the folder holds no answer to; what failed before is tried again.

    Args:
        folder: of the run.
        samples: what to ask, in this order: all configs about one sample before the next.
        configs: names of those that are asked.
        load: returns a model under each of these names; called only if something is left to ask.
        root: of the images.
        suffix: on a line of its own behind every question; "" is none.
        max_new_tokens: of the longest answer.
        tell: told of the progress.

    Raises:
        PruningNotApplied: pruning was asked for and did not happen.
    """
    path = folder / ANSWERS
    done = {(line["set"], line["id"], line["config"]) for line in whole_lines(path, lambda line: line["error"] is None)}
    left = [(sample, config) for sample in samples for config in configs if (sample.set, sample.id, config) not in done]
    total = len(samples) * len(configs)
    models: Mapping[str, Any] | None = None
    for number, (sample, config) in enumerate(left):
        tell("answering", total - len(left) + number, total)
        line = _about(sample, config)
        try:
            missing = lacks(sample)
            if missing:
                raise MediaError(missing)
            image = image_path(sample, root)
            models = models or load()
            line |= _answer(models[config], image, sample.question, suffix, max_new_tokens)
        except MediaError as error:  # of one sample: the others can still be asked, and coverage says so
            line["error"] = str(error)
        except torch.OutOfMemoryError:  # one image may be too large where all others fit
            line["error"] = "out of GPU memory: a smaller --max_pixels shrinks large images"
        add_line(path, line)
    tell("answering", total, total)


def _about(sample: Sample, config: str) -> Line:
    return {
        "set": sample.set, "id": sample.id, "config": config, "image": sample.image, "question": sample.question,
        "reference": sample.answer, "answer": None, "tokens": None, "kept_ratio": None, "generated_tokens": None,
        "seconds": None, "error": None,
    }  # fmt: skip


def _answer(model: Any, image: Path, question: str, suffix: str, max_new_tokens: int) -> Line:
    result = model.generate(
        images=str(image),
        question=f"{question}\n{suffix}" if suffix else question,
        max_new_tokens=max_new_tokens,
        return_stats=True,
        **_GREEDY,
    )
    stats = result["stats"]
    tokens = stats["tokens"]
    return {
        "answer": result["answer"],
        "tokens": tokens,
        "kept_ratio": tokens["after_stage2"] / tokens["visual"],
        "generated_tokens": stats["generated_tokens"],
        "seconds": {part: stats["seconds"][part] for part in ("first_token", "total")},
    }
