"""`prunevid models`: what the table says of a family is what the package does with it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen import ConfigError, PruneVidConfig, UnsupportedError, get_config, pruned
from prunevid_qwen.adapters import adapter_for, families
from prunevid_qwen.adapters.tiny import FAMILIES as TINY
from prunevid_qwen.adapters.tiny import tiny_model as drawn_model
from prunevid_qwen.cli.app import main
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.inputs.family_rows import EVERY, HEAD, family_cells, family_rows
from prunevid_qwen.inputs.frontends import check_reads
from prunevid_qwen.receipt import receipt
from tests.families import FAMILIES, family_inputs, family_model
from tests.glimpse import FACTS
from tests.glimpse import config as glimpse_config
from tests.models import make_inputs

ROOT = Path(__file__).resolve().parent.parent
SHOWN = {family: (*tiny.shown.rows[0], *tiny.shown.rows[1]) for family, tiny in TINY.items()}
"""Texts, and at least one of each kind of media that a family accepts."""
HALF = PruneVidConfig(enable_stage1=False, keep_ratio=0.5)


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    return {row["model_type"]: row for row in family_rows()}


def answered(family: str, config: Any, inputs: Any = None) -> Any:
    """The trace of two new tokens about one video or image, or about others."""
    model = family_model(family)
    with pruned(model, config) as trace:
        model.generate(**(inputs or family_inputs(family, "one")), max_new_tokens=2, do_sample=False)
    return trace


def enters(family: str, config: Any, model: Any = None) -> bool:
    try:
        with pruned(family_model(family) if model is None else model, config):
            return True
    except ConfigError:
        return False


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_said_of_cuts_is_what_happens(family: str, rows: dict[str, dict[str, Any]]) -> None:
    row, adapter = rows[family], adapter_for(family_model(family))
    at = {layer for layer in range(6) if enters(family, HALF.replace(pruning_layer=layer))}
    assert row["cuts"] == row["cache_cut"] and at == set(adapter.attending)
    assert (len(at) == 6) == (row["cuts"] == EVERY) and row["stages"] == [1, 2, 3]
    packed = dataclasses.replace(plan_of_half(family), places="packed", compress=True)
    assert enters(family, packed) == (row["positions"] == "order")
    trace = answered(family, HALF.replace(pruning_layer=4))
    seconds = {"read": 0.0, "total": 0.0}
    stage3 = receipt(trace, 0, HALF, [], [], 1, {}, seconds, 2)["stage3"]
    assert stage3["applied"] and stage3["partial"] == (row["cache_cut"] != EVERY)


def plan_of_half(family: str) -> Plan:
    from prunevid_qwen.forward.plan import compile_plan

    return compile_plan(HALF.replace(pruning_layer=4), 6)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_said_of_methods_is_what_happens(family: str, rows: dict[str, dict[str, Any]]) -> None:
    row, adapter = rows[family], adapter_for(family_model(family))
    trained = glimpse_config(dataclasses.replace(FACTS, vision_width=adapter.vision_width), keep_threshold=None)
    for kind in row["accepts"]:
        inputs = make_inputs([[each for each in SHOWN[family] if each[0] in ("text", kind)]], family=family)
        if kind in row["trained_selector"]:
            sample = answered(family, trained, inputs).samples[0]
            assert sample.after_stage2 < sample.tokens
        else:
            with pytest.raises(ConfigError):
                answered(family, trained, inputs)
    assert set(row["presets"]) >= {"paper", "stage1_only", "fastv", "baseline", "glimpse"}
    published = drawn_model(family, 8)  # with its kinds of layers, as the library's own config has them
    text = published.config.text_config
    if FAMILIES[family].linear:
        assert text.layer_types == type(text)(num_hidden_layers=8).layer_types
        assert "layers=4" in row["presets"]["fastv"]
    for name, why in row["presets"].items():
        if name != "glimpse" or why is not None:
            assert enters(family, get_config(name), published) == (why is None), name
    alone = get_config("stage1_only")
    if row["merged"]:
        sample = answered(family, alone).samples[0]
        assert row["merged"] == ["video"] and sample.after_stage1 < sample.tokens
    else:
        assert "merge_images" in row["presets"]["stage1_only"]
        sample = answered(family, alone.replace(merge_images=True)).samples[0]
        assert sample.after_stage1 < sample.tokens
    assert [name for name, why in row["presets"].items() if why is None] and row["presets"]["paper"] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_said_of_media_is_what_happens(family: str, rows: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    drawn_model(family).config.save_pretrained(tmp_path)
    for kind in ("video", "image"):
        if kind in rows[family]["accepts"]:
            check_reads(str(tmp_path), kind, {})
        else:
            with pytest.raises(UnsupportedError, match=kind):
                check_reads(str(tmp_path), kind, {})


def test_the_command_lists_every_family(rows: dict[str, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert list(rows) == list(families())
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["families"] == list(rows.values())
    assert main(["models"]) == 0
    told = capsys.readouterr().out
    assert all(len(line) <= 80 for line in told.splitlines())
    for row in rows.values():
        assert re.search(rf"^{re.escape(row['name'])} +{row['model_type']} ", told, re.MULTILINE)
        if row["installed"]:
            absent = family_cells({**row, "installed": False})
            assert len(absent) == len(HEAD) == len(family_cells(row)) and row["transformers"] in " ".join(absent)


def test_readme_names_every_family(rows: dict[str, dict[str, Any]]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    both, _, images = readme.partition("## Which models")[2].partition("##")[0].partition("Images:")
    for row in rows.values():
        where = both if "video" in row["accepts"] else images
        assert re.search(rf"{re.escape(row['name'])}[,.;]", where), row["name"]
    assert len(readme.splitlines()) <= 120
