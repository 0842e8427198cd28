"""Every method on every family: ``python -m tests.method_matrix`` writes eval/results/method_matrix.json.

A cell is a batch of the family's tiny model: several videos or images, and a text. Its oracle recomputes each row
without a cache, layer by layer, with the tokens that the method left.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import prunevid_qwen.stage1_merge
import prunevid_qwen.stage2_select  # noqa: F401  importing a stage enters its methods in the registry
from prunevid_qwen import check_reducer
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_classes import STAGES, names_in, options_class
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.receipt import versions
from prunevid_qwen.reducer import reducer_class, registered, says
from tests.families import FAMILIES, family_inputs, family_model
from tests.method_reference import cases, default_source
from tests.pruned_generation import OUT, same_logits
from tests.recomputing import recomputed

RESULT = Path(__file__).parents[1] / "eval" / "results" / "method_matrix.json"
PARTS = {stage: part for part, stage in STAGES.items()}
METHODS = [
    (stage, name)
    for stage, part in PARTS.items()
    for name in registered(stage)
    if not says(options_class(part, name)(), stage).told
]
EQUAL, UNCHANGED = "equal", "unchanged"
Cell = dict[str, str]


def config_of(stage: int, name: str) -> PruneVidConfig:
    """The method alone at two fifths of the tokens, at the layers of its paper, images too."""
    options, own = options_class(PARTS[stage], name), dict[str, Any]()
    said = says(options(), stage)
    own = {said.lever or "keep_ratio": 0.4, **said.lever_needs}
    if "merge_images" in names_in(options):
        own["merge_images"] = True
    other = {"enable_stage1": False} if stage == 2 else {"enable_stage2": False, "enable_cache_compression": False}
    return PruneVidConfig(**{PARTS[stage]: name, **other, **own})


def cell(stage: int, name: str, family: str) -> Cell:
    """Return whether a method does on a family as the oracle: "equal", "unchanged", or "refused" and why.

    Raises:
        AssertionError: the logits are others.
    """
    config = config_of(stage, name)
    try:
        with pruned(family_model(family), config) as trace:
            inputs = family_inputs(family, "batch")
            out = family_model(family).generate(**inputs, max_new_tokens=3, do_sample=False, **OUT)
    except (ConfigError, UnsupportedError) as error:
        return {"is": "refused", "why": str(error)}
    plan = Plan(compress=config.enable_cache_compression)
    for b, wanted in enumerate(recomputed(FAMILIES[family].cases["batch"], out.sequences, trace, family, plan)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)
    acted = any(each.map.n_out < each.map.n_in for row in trace.samples for each in row.reductions)
    return {"is": EQUAL if acted else UNCHANGED}


def references() -> dict[tuple[int, str], tuple[int, int]]:
    """Count the authors' cases of each method: those that pass, and all that have a check."""
    passed, all_of = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
    checks = {path.stem for path in (Path(__file__).parent / "reference_cases").glob("[!_]*.py")}
    for case in cases(default_source()):
        if case.method not in checks:
            continue
        module = importlib.import_module(f"tests.reference_cases.{case.method}")
        shown = [key for key in METHODS if reducer_class(key[1], key[0]) in vars(module).values()]
        for key in shown:
            all_of[key] += 1
            with contextlib.suppress(AssertionError):
                module.check(case)
                passed[key] += 1
    return {key: (passed[key], count) for key, count in all_of.items()}


def main() -> None:
    """Write the matrix."""
    found, rows = references(), []
    for stage, name in METHODS:
        check_reducer(reducer_class(name, stage))
        cells = {family: cell(stage, name, family) for family in FAMILIES}
        rows.append({"stage": stage, "name": name, "families": cells, "reference": found.get((stage, name))})
    record = {"command": "python -m tests.method_matrix", "versions": versions(), **surroundings(), "rows": rows}
    RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
