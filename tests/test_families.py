"""The table of families: registered by their adapters, refused by name where nobody registered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import QwenVL, adapter_for, families, family_of, family_table, register_family
from prunevid_qwen.errors import UnsupportedError
from tests.models import tiny_model

pytestmark = pytest.mark.numeric


def test_a_registered_class_is_what_models_of_its_types_get(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_table, "_FAMILIES", dict(family_table._FAMILIES))

    @register_family("toy_vl", "toy_vl_moe")
    class Toy:
        def __init__(self, model: Any) -> None:
            self.model = model

    assert families()[-2:] == ("toy_vl", "toy_vl_moe")
    assert (family_of("toy_vl_moe").adapter, family_of("toy_vl").frontend) == (Toy, "stock")
    model: Any = torch.nn.Module()
    model.config, model.lm_head = type("Config", (), {"model_type": "toy_vl"})(), torch.nn.Linear(1, 1)
    assert adapter_for(model).model is model  # type: ignore[attr-defined]


def test_qwen_is_registered_with_its_own_frontend() -> None:
    for name in ("qwen2_5_vl", "qwen2_vl"):
        assert (family_of(name).adapter, family_of(name).frontend) == (QwenVL, "qwen")
        assert isinstance(adapter_for(tiny_model(family=name)), QwenVL)


@pytest.mark.parametrize("unknown", ["gpt2", None])
def test_an_unknown_family_is_refused_with_those_that_are_known_and_the_page(unknown: str | None) -> None:
    with pytest.raises(UnsupportedError) as error:
        family_of(unknown)
    said = str(error.value)
    assert all(name in said for name in (str(unknown), "CONTRIBUTING.md", *families()))


def test_two_adapters_for_one_type_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family_table, "_FAMILIES", dict(family_table._FAMILIES))
    with pytest.raises(ValueError, match="qwen2_vl"):
        register_family("qwen2_vl")(type("Other", (), {}))
    assert family_of("qwen2_vl").adapter is QwenVL
    with pytest.raises(ValueError, match="model_type"):
        register_family()


def test_the_inner_model_is_refused_for_the_whole_one() -> None:
    with pytest.raises(UnsupportedError, match="lm_head"):
        adapter_for(tiny_model().model)
