"""What could change an answer, as short texts that two runs must share; hashes stand for what is long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from prunevid_qwen.evaluation.store.identity import config_options, digest_of, model_options
from prunevid_qwen.evaluation.visual_cot.configs import NamedConfigs
from prunevid_qwen.evaluation.visual_cot.records import Sample
from prunevid_qwen.loading import choose_device


def options_of(
    samples: Sequence[Sample],
    configs: NamedConfigs,
    model_path: str,
    loading: dict[str, Any],
    suffix: str,
    max_new_tokens: int,
) -> dict[str, Any]:
    """Return what two runs must share for their answers to stand in one table, flat, so that a difference has a name.

    Images count by their paths, not their pixels: sets of a hundred gigabytes are not read to compare two runs, and
    whoever adds missing images goes on with the same run.

    Args:
        samples: what is asked.
        configs: who is asked.
        model_path: "bundled", a folder or a hub id.
        loading: arguments of ``from_pretrained``.
        suffix: behind every question.
        max_new_tokens: of the longest answer.
    """
    options: dict[str, Any] = {"sets": list(dict.fromkeys(sample.set for sample in samples))}
    for name in options["sets"]:
        own = [asdict(sample) for sample in samples if sample.set == name]
        options[f"records of {name}"] = f"{len(own)} records, {digest_of(own)}"
    options |= {"suffix": suffix, "max_new_tokens": max_new_tokens}
    options |= model_options(model_path, loading, choose_device(loading.get("device")))
    options["configs"] = [name for name, _ in configs]
    for name, config in configs:
        options |= {f"{name}: {option}": value for option, value in config_options(config).items()}
    return options
