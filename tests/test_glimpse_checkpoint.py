"""Glimpse predictors on disk: the published form and ours, and what is said of files that are neither."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError, UnsupportedError
from prunevid_qwen.stage2_select.glimpse import GlimpseVIP
from prunevid_qwen.stage2_select.glimpse.predictor import load_predictor
from tests.glimpse import FACTS, random_predictor
from tests.tolerances import FEATURES, close

PUBLISHED = Path(__file__).parent / "data" / "glimpse_checkpoint"
CASES = range(4)


def reference() -> Any:
    return np.load(PUBLISHED / "vip_reference.npz")


def copied(tmp_path: Path, change: Callable[[Path], object] = lambda folder: None, **config: Any) -> Path:
    """The published checkpoint, with some entries of its config and then something else changed."""
    folder = tmp_path / "changed"
    shutil.copytree(PUBLISHED, folder)
    options = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**options, **config}))
    change(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_the_authors_module_is_reproduced(case: int) -> None:
    held, vip = reference(), GlimpseVIP.from_pretrained(PUBLISHED)
    attention, taps, grids, wanted = (
        torch.from_numpy(held[f"case{case}_{name}"]) for name in ("attention", "taps", "grid_hw", "logits")
    )
    got = vip(attention, taps, grids)
    assert got.shape == wanted.shape
    close(got, wanted, FEATURES)


def test_glimpse_vectors_are_the_authors() -> None:
    wanted = torch.from_numpy(reference()["glimpse_vectors"])
    got = GlimpseVIP.from_pretrained(PUBLISHED).glimpse_vectors
    assert got.shape == wanted.shape
    close(got, wanted, FEATURES)


def test_our_form_holds_the_same_and_drops_the_projection(tmp_path: Path) -> None:
    one = GlimpseVIP.from_pretrained(PUBLISHED)
    folder = one.save_pretrained(tmp_path / "ours")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    other = GlimpseVIP.from_pretrained(folder)
    assert other.facts == one.facts
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert not any("le_proj" in name for name in other.state_dict())
    small = GlimpseVIP.from_pretrained(one.save_pretrained(tmp_path / "small", dtype=torch.bfloat16))
    assert all(value.dtype == torch.float32 for value in small.state_dict().values())
    assert torch.equal(small.glimpse_vectors, one.glimpse_vectors.bfloat16().float())


def test_layers_without_a_glimpse_vector_add_nothing(tmp_path: Path) -> None:
    def fewer(folder: Path) -> None:
        held = torch.load(folder / "new_modules_gp.pt", weights_only=True)
        held["learnable_embeddings"] = held["learnable_embeddings"][[0, 2, 3]]
        torch.save(held, folder / "new_modules_gp.pt")

    own = GlimpseVIP.from_pretrained(copied(tmp_path, fewer, le_layers=[0, 2, 3])).glimpse_vectors
    whole = GlimpseVIP.from_pretrained(PUBLISHED).glimpse_vectors
    # not to the bit on every CPU: a product of three rows may sum in another order than one of six
    close(own[[0, 2, 3]], whole[[0, 2, 3]])
    assert not own[[1, 4, 5]].any()


def truncated(folder: Path) -> None:
    path = folder / "new_modules_gp.pt"
    path.write_bytes(path.read_bytes()[:-1000])


def foreign(folder: Path) -> None:
    torch.save({"model": torch.zeros(3)}, folder / "new_modules_gp.pt")


def no_weights(folder: Path) -> None:
    (folder / "new_modules_gp.pt").unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def junk(folder: Path) -> None:
    (folder / "new_modules_gp.pt").write_bytes(b"hello, this is no checkpoint" * 40)


def error_page(folder: Path) -> None:
    (folder / "new_modules_gp.pt").write_bytes(b"<!DOCTYPE html><html>Not found</html>")


def cut_short(folder: Path) -> None:
    (folder / "new_modules_gp.pt").write_bytes(b"")


def with_modules(folder: Path, modules: object) -> None:
    held = torch.load(folder / "new_modules_gp.pt", weights_only=True)
    torch.save({**held, "attn_fuser": modules}, folder / "new_modules_gp.pt")


def no_modules(folder: Path) -> None:
    with_modules(folder, None)


def not_a_number(folder: Path) -> None:
    held = torch.load(folder / "new_modules_gp.pt", weights_only=True)
    held["attn_fuser"]["layers.1.norm2.weight"][3] = torch.nan
    torch.save(held, folder / "new_modules_gp.pt")


def odd_modules(folder: Path) -> None:
    with_modules(folder, {"attn_in_proj.bias": 1})


def cut_early(folder: Path) -> None:
    """Below 64 KiB or so the reader seeks to before the file's beginning."""
    path = folder / "new_modules_gp.pt"
    path.write_bytes(path.read_bytes()[:52796])


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (truncated, SetupError, r"\d+ bytes\) cannot be read as tensors alone"),
        (cut_short, SetupError, r"\(0 bytes\) cannot be read as tensors alone"),
        (junk, SetupError, r"cannot be read as tensors alone"),
        (error_page, SetupError, r"cannot be read as tensors alone"),
        (foreign, ConfigError, r"holds \['model'\], a published glimpse checkpoint holds"),
        (no_weights, ConfigError, r"neither model.safetensors nor new_modules_gp.pt; it holds config.json"),
        (no_config, ConfigError, "has no config.json"),
        (broken_config, ConfigError, "is not JSON"),
        (no_modules, ConfigError, "does not fit its config.json: 'NoneType' object has no attribute 'items'"),
        (not_a_number, ConfigError, "vip.layers.1.norm2.weight holds NaN or infinite numbers"),
        (odd_modules, ConfigError, "does not fit its config.json: 'int' object has no attribute 'float'"),
        (cut_early, SetupError, "cannot be read as tensors alone"),
    ],
)
def test_damaged_and_foreign_files(tmp_path: Path, change: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        GlimpseVIP.from_pretrained(copied(tmp_path, change))


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        ({"model_type": "qwen2_5_vl"}, ConfigError, "describes a 'qwen2_5_vl' model, not a glimpse predictor"),
        ({"attn_fuse_size": 64}, ConfigError, r"vip.attn_in_proj.bias is \[32\] in the file and \[64\] by config.json"),
        ({"num_attention_heads": 8}, ConfigError, r"vip.attn_in_proj.weight is \[32, 4\] in the file and \[32, 8\]"),
        ({"hidden_size": 32}, ConfigError, r"does not fit its config.json: \[6, 1, 64\] glimpse embeddings"),
        ({"selected_layers": [4]}, ConfigError, r"selected_layers <= reduce_layer < num_hidden_layers"),
        ({"reduce_layer": 1000}, ConfigError, r"selected_layers <= reduce_layer < num_hidden_layers"),
        ({"use_attention_logits": False}, UnsupportedError, "use_attention_logits=False, supported is True"),
        ({"attn_fuse_type": "AttnFuserV2"}, UnsupportedError, "attn_fuse_type='AttnFuserV2'"),
        ({"le_length": 2}, UnsupportedError, "le_length=2"),
        ({"vision_config": {}}, ConfigError, "no usable 'hidden_size'"),
        ({"vision_config": {"hidden_size": "48"}}, ConfigError, "vision_width is made of whole numbers"),
        ({"hidden_size": None}, ConfigError, "hidden_size is made of whole numbers of at least 0, got None"),
        ({"selected_visual_layers": [-1]}, ConfigError, "selected_visual_layers is made of whole numbers"),
        ({"selected_visual_layers": []}, ConfigError, "sizes of a VIP are at least 1"),
        ({"attn_fuse_num_heads": 3}, ConfigError, "width 32 divides over 3 heads"),
    ],
)
def test_configs_that_do_not_fit(tmp_path: Path, config: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        GlimpseVIP.from_pretrained(copied(tmp_path, **config))


class Boom:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copied(tmp_path, lambda f: torch.save({"attn_fuser": Boom()}, f / "new_modules_gp.pt"))
    with pytest.raises(SetupError, match="Nothing else in it was run"):
        GlimpseVIP.from_pretrained(folder)
    assert not (tmp_path / "touched").exists()


def test_damaged_safetensors(tmp_path: Path) -> None:
    folder = random_predictor().save_pretrained(tmp_path / "ours")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SetupError, match=r"\(100 bytes\) is damaged"):
        GlimpseVIP.from_pretrained(folder)


def test_a_place_that_is_none_and_a_hub_that_is_out_of_reach() -> None:
    with pytest.raises(ConfigError, match=r"no folder at '\./nowhere'"):
        GlimpseVIP.from_pretrained("./nowhere")
    with pytest.raises(SetupError, match=r"cannot load the glimpse predictor 'someone/glimpse'.*\nWithout"):
        GlimpseVIP.from_pretrained("someone/glimpse", local_files_only=True)


def test_one_load_for_all_configs_and_another_when_files_change(tmp_path: Path) -> None:
    folder = random_predictor().save_pretrained(tmp_path / "ours")
    first = load_predictor(str(folder))
    assert load_predictor(str(folder)) is first
    random_predictor(seed=1).save_pretrained(folder, dtype=torch.bfloat16)
    second = load_predictor(str(folder))
    assert not torch.equal(first.glimpse_vectors, second.glimpse_vectors)


def test_the_hub_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder, asked = random_predictor().save_pretrained(tmp_path / "ours"), []

    def download(name: str, **_: Any) -> str:
        asked.append(name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_predictor("someone/once") is load_predictor("someone/once")
    assert asked == ["someone/once"]


def test_the_default_device_and_dtype_do_not_matter(tmp_path: Path) -> None:
    ours = random_predictor().save_pretrained(tmp_path / "ours")
    for folder in (PUBLISHED, ours):
        wanted = GlimpseVIP.from_pretrained(folder).state_dict()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device("meta"):
                got = GlimpseVIP.from_pretrained(folder).state_dict()
        finally:
            torch.set_default_dtype(torch.float32)
        assert all(torch.equal(got[name], value) for name, value in wanted.items())


def test_sizes_that_do_not_belong_together_are_named() -> None:
    vip = random_predictor()
    with pytest.raises(ValueError, match=r"grids \[\(2, 3\)\] want attention \[6, 4\] and taps \[1, 6, 32\], got"):
        vip(torch.zeros(5, 4), torch.zeros(1, 6, 32), torch.tensor([[2, 3]]))


def test_the_bundled_predictor_is_the_bundled_models_and_small() -> None:
    from prunevid_qwen.adapters import adapter_for
    from prunevid_qwen.loading import bundled_model, load_model

    adapter, facts = adapter_for(load_model(bundled_model(), "cpu", {})), GlimpseVIP.from_pretrained("bundled").facts
    assert (len(adapter.parts.layers), adapter.hidden_size, adapter.heads) == (
        facts.layers, facts.hidden_size, facts.heads,
    )  # fmt: skip
    folder = Path(bundled_model()).parent / "glimpse"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2**20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep_threshold": 1.0}, r"keep_threshold is a probability in \[0, 1\), or None; got 1.0"),
        ({"keep_ratio": 0.2}, r"would not read keep_ratio=0.2: pass max_keep_ratio=0.2 .* or keep_threshold=None"),
        ({"keep_threshold": None, "max_keep_ratio": 0.2}, "caps nothing: drop one"),
        ({"keep_ratio": 1, "max_keep_ratio": 0.2}, "keep_ratio=1 keeps everything, and max_keep_ratio caps nothing"),
        ({"max_keep_ratio": 25}, "did you mean 0.25"),
        ({"min_keep_tokens": 0}, "min_keep_tokens is a whole number of at least 1"),
        ({"budget_scope": "images"}, "did you mean 'image'"),
        ({"glimpse_path": ""}, "glimpse_path is a folder, a hub id or 'bundled'"),
        ({"selector": "prunevid", "max_keep_ratio": 0.2}, "'prunevid' has no max_keep_ratio: it has keep_ratio"),
    ],
)
def test_budgets_that_nothing_would_read_are_refused(options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PruneVidConfig(**{"selector": "glimpse", **options})


def test_facts_survive_json(tmp_path: Path) -> None:
    folder = random_predictor().save_pretrained(tmp_path / "ours")
    assert GlimpseVIP.from_pretrained(folder).facts == FACTS
