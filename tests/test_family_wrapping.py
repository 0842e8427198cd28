"""Models of every family as users hold them: offloaded, wrapped by peft, quantised, compiled. Hooks act all the same.

peft and bitsandbytes need not be installed: stand-ins do what theirs do to a model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from prunevid_qwen.adapters.releases import numbers_of
from prunevid_qwen.adapters.seams import transformers_release
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.loading import load_model
from tests.families import FAMILIES, family_inputs, family_model
from tests.test_context import Adapted
from tests.tolerances import LOGITS, close

CHEAP = ("llava_next",)
TOKENS = 4


def some(*cheap: str) -> Any:
    """All families, in `make test` these."""
    rows = [each if each in cheap else pytest.param(each, marks=pytest.mark.nightly) for each in FAMILIES]
    return pytest.mark.parametrize("family", rows)


class Answered(NamedTuple):
    """What one `generate` made."""

    logits: Tensor  # [tokens, B, vocabulary]
    kept: list[int]  # visual tokens of each row


def answered(family: str, model: Any, keep: bool = False) -> Answered:
    all_of_it = {"tau": 1.0, "cluster_ratio": 1.0, "keep_ratio": 1.0, "position_scheme": "hf"} if keep else {}
    config = PruneVidConfig(pruning_layer=1, min_cluster_tokens=0, **FAMILIES[family].options, **all_of_it)
    with pruned(model, config) as trace:
        logits = stock(family, model)
    return Answered(logits, [sample.after_stage2 for sample in trace.samples])


def stock(family: str, model: Any) -> Tensor:
    given = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    made = model.generate(**family_inputs(family, "batch"), max_new_tokens=TOKENS, **given)
    return torch.stack(made.logits)


# ---- accelerate


PLACES = ("host memory", "disk", "towers on the disk", "language on the disk")


def offloaded(family: str, where: str, folder: Path) -> Any:
    from accelerate import cpu_offload, disk_offload, dispatch_model

    model = copy.deepcopy(family_model(family))
    if where == "host memory":
        return cpu_offload(model, torch.device("cpu"))
    if where == "disk":
        return disk_offload(model, str(folder), torch.device("cpu"))
    sees = where.startswith("towers")
    parts = {f"model.{name}": name in FAMILIES[family].towers for name, _ in model.model.named_children()}
    own = dict.fromkeys((f"model.{name}" for name, _ in model.model.named_parameters(recurse=False)), "cpu")
    places = {name: "disk" if tower == sees else "cpu" for name, tower in parts.items()}
    places["lm_head"] = "cpu" if sees else "disk"
    return dispatch_model(model, {**places, **own}, main_device="cpu", offload_dir=str(folder), force_hooks=True)


@pytest.mark.filterwarnings("ignore:The following device_map keys")  # a newline's, which is no module
@some(*CHEAP)
@pytest.mark.parametrize(
    "where", [each if each == "host memory" else pytest.param(each, marks=pytest.mark.nightly) for each in PLACES]
)
def test_an_offloaded_model_answers_as_from_memory(family: str, where: str, tmp_path: Path) -> None:
    """A mixture of experts rounds otherwise where its weights lie elsewhere, without pruning too."""
    wanted = answered(family, family_model(family))
    model = offloaded(family, where, tmp_path)
    try:
        found = answered(family, model)
    except NotImplementedError:
        if numbers_of(transformers_release()) >= numbers_of("5.11"):
            raise
        pytest.skip("up to 5.10 the library itself does not run it: its tower meets weights that are not there")
    assert found.kept == wanted.kept
    close(found.logits, wanted.logits, LOGITS)
    assert "moe" in family or torch.equal(found.logits, wanted.logits)


# ---- peft


class LowRank(nn.Module):
    """A linear layer with what was learnt beside it."""

    def __init__(self, base: nn.Linear, numbers: torch.Generator) -> None:
        super().__init__()
        self.base_layer = base
        down, up = ((4, base.in_features), (base.out_features, 4))
        self.down, self.up = (nn.Parameter(torch.randn(size, generator=numbers) * 0.2) for size in (down, up))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x) + x @ self.down.T @ self.up.T
        return out

    def merged(self) -> nn.Linear:
        one = copy.deepcopy(self.base_layer)
        one.weight.data += self.up.data @ self.down.data
        return one


def swapped(model: Any, made: Callable[[str, nn.Module], nn.Module | None]) -> int:
    """Put other modules where ``made`` returns one; count them."""
    count = 0
    for _, module in list(model.named_modules()):
        for name, child in list(module.named_children()):
            other = made(name, child)
            if other is not None:
                setattr(module, name, other)
                count += 1
    return count


@some(*CHEAP)
@torch.no_grad()
def test_a_model_wrapped_by_peft_is_pruned_by_what_was_learnt(family: str) -> None:
    numbers, model = torch.Generator().manual_seed(3), copy.deepcopy(family_model(family))
    plain = answered(family, model)
    projections = ("q_proj", "k_proj", "v_proj")
    assert swapped(
        model.model.language_model, lambda name, child: LowRank(child, numbers) if name in projections else None
    )
    found = answered(family, Adapted(model))
    assert torch.equal(found.logits, answered(family, model).logits)
    assert not torch.equal(found.logits, plain.logits)
    swapped(model, lambda _, child: child.merged() if isinstance(child, LowRank) else None)
    merged = answered(family, model)
    assert merged.kept == found.kept
    close(found.logits, merged.logits, LOGITS)


# ---- bitsandbytes


class Packed(nn.Linear):
    """A linear layer whose weight is bytes in a shape of its own, as of 4 bits."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        scale = base.weight.data.abs().amax(dim=1, keepdim=True) / 127
        whole = (base.weight.data / scale).round().to(torch.int8)
        self.weight = nn.Parameter(whole.view(torch.uint8).reshape(-1, 1), requires_grad=False)
        self.scale, self.bias = scale, base.bias

    @property
    def whole(self) -> Tensor:
        return self.weight.data.view(torch.int8).view(self.out_features, -1) * self.scale

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.whole, self.bias)

    def unpacked(self) -> nn.Linear:
        one = nn.Linear(self.in_features, self.out_features, self.bias is not None)
        one.weight.data, one.bias = self.whole, self.bias
        return one


@some(*CHEAP)
@torch.no_grad()
def test_a_quantised_model_is_pruned_as_one_of_the_same_weights(family: str) -> None:
    model = copy.deepcopy(family_model(family))
    assert swapped(model, lambda name, child: Packed(child) if type(child) is nn.Linear and name != "lm_head" else None)
    whole = answered(family, model, keep=True)
    assert torch.equal(whole.logits, stock(family, model))
    found = answered(family, model)
    swapped(model, lambda _, child: child.unpacked() if isinstance(child, Packed) else None)
    wanted = answered(family, model)
    assert found.kept == wanted.kept and torch.equal(found.logits, wanted.logits)
    assert sum(found.kept) < sum(whole.kept)


@some("qwen3_vl")
def test_a_quantisation_reaches_the_library(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    wanted, came = BitsAndBytesConfig(load_in_8bit=True), dict[str, Any]()

    def from_pretrained(_source: str, **given: Any) -> Any:
        came.update(given)
        return SimpleNamespace(eval=lambda: family_model(family))

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", from_pretrained)
    family_model(family).config.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), None, {"quantization_config": wanted, "device_map": {"": "cpu"}})
    assert came["quantization_config"] is wanted and came["device_map"] == {"": "cpu"}
    assert model is family_model(family)


# ---- torch.compile


@pytest.fixture
def _no_graphs() -> Iterator[None]:
    yield
    torch._dynamo.reset()  # type: ignore[no-untyped-call]


def of_decoder(_family: str, model: Any) -> Any:
    model.model.language_model.compile(backend="eager")
    return model


def of_parts(family: str, model: Any) -> Any:
    """`torch.compile` puts a module of its own around each."""
    for name in FAMILIES[family].towers:
        setattr(model.model, name, torch.compile(getattr(model.model, name), backend="eager"))
    layers = model.model.language_model.layers
    for number, layer in enumerate(layers):
        layers[number] = torch.compile(layer, backend="eager")
    return model


@pytest.mark.nightly  # of one family `make test` runs tests/test_compiled.py
@pytest.mark.usefixtures("_no_graphs")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", [of_decoder, of_parts], ids=lambda way: way.__name__)
@torch.no_grad()
def test_a_compiled_model_is_pruned_uncompiled(family: str, way: Callable[[str, Any], Any]) -> None:
    wanted = answered(family, family_model(family))
    model = way(family, copy.deepcopy(family_model(family)))
    model(**family_inputs(family, "batch"))
    found = answered(family, model)
    assert found.kept == wanted.kept and torch.equal(found.logits, wanted.logits)
