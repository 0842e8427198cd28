"""Glimpse predictors on disk: the published checkpoints as they are, and our own safetensors form."""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunevid_qwen.errors import ConfigError, SetupError, quoted
from prunevid_qwen.stage2_select.glimpse.facts import GlimpseFacts, facts_of, read_config
from prunevid_qwen.stage2_select.glimpse.vip import VIP

CONFIG, PUBLISHED, OWN = "config.json", "new_modules_gp.pt", "model.safetensors"
_PUBLISHED_ENTRIES = ("attn_fuser", "learnable_embeddings", "le_proj", "le_norm")
_BUNDLED = Path(__file__).parents[2] / "bundled" / "glimpse"


class GlimpseVIP(nn.Module):
    """A trained VIP with the glimpse vectors that belong to it.

    Args:
        facts: what it was made for.

    Attributes:
        glimpse_vectors: [L, D] fp32: the glimpse token's input embedding, then what is added to its state before layer
            1, 2, ...; the published RMSNorm(Linear(P_i)), made once, so that the large projection is not kept.
    """

    glimpse_vectors: Tensor

    def __init__(self, facts: GlimpseFacts) -> None:
        super().__init__()
        self.facts = facts
        self.vip = VIP(facts.shape)
        self.register_buffer("glimpse_vectors", torch.zeros(facts.layers, facts.hidden_size))
        self._copies: dict[torch.device, GlimpseVIP] = {}

    def forward(self, attention: Tensor, taps: Tensor, grid_hw: Tensor) -> Tensor:
        """Score the tokens of whole images.

        Args:
            attention: [N, layers read * heads] attention of the glimpse token, as ``facts.use_attention_logits`` says:
                scaled logits, or logarithms of probabilities.
            taps: [taps, N, vision_width] vision encoder blocks in the order of ``facts.selected_visual_layers``, in
                raster order, the mean over the four patches of a token.
            grid_hw: [images, 2] int64 rows and columns of each image's merged grid; a video is an image for each of its
                temporal positions.

        Returns:
            [N] logits.

        Raises:
            ValueError: sizes that do not belong together.
        """
        grids = [(int(h), int(w)) for h, w in grid_hw.tolist()]
        sizes = [h * w for h, w in grids]
        shape = self.facts.shape
        wanted = [sum(sizes), shape.attention], [shape.taps, sum(sizes), shape.vision]
        if [list(attention.shape), list(taps.shape)] != list(wanted):
            raise ValueError(
                f"grids {grids} want attention {wanted[0]} and taps {wanted[1]}, got {list(attention.shape)} and "
                f"{list(taps.shape)}"
            )
        cells = [torch.arange(size, device=attention.device) for size in sizes]
        rows = torch.cat([cell // w for cell, (_, w) in zip(cells, grids, strict=True)])
        columns = torch.cat([cell % w for cell, (_, w) in zip(cells, grids, strict=True)])
        return self.vip(attention, taps, rows, columns, sizes)  # type: ignore[no-any-return]

    def at(self, device: torch.device) -> GlimpseVIP:
        """Return this predictor on ``device``: a copy that is made once, so that models on two GPUs can share it."""
        if device == self.glimpse_vectors.device:
            return self
        if device not in self._copies:
            copy = GlimpseVIP(self.facts).to(self.glimpse_vectors.dtype)
            copy.load_state_dict(self.state_dict())
            self._copies[device] = copy.to(device).eval().requires_grad_(False)
        return self._copies[device]

    @classmethod
    def from_pretrained(cls, source: str | Path, dtype: torch.dtype = torch.float32, **hub: Any) -> GlimpseVIP:
        """Load a predictor from a folder or a hub id: a published checkpoint, or one that `save_pretrained` wrote.

        Args:
            source: folder, hub id, or "bundled" for that of the toy "bundled".
            dtype: to compute in; published checkpoints are bfloat16 and are exact in float32.
            hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, as in `huggingface_hub`.

        Raises:
            ConfigError: nothing there, something else there, or tensors of other sizes than the config says.
            SetupError: a damaged file, or a hub that cannot be reached.
            UnsupportedError: a variant that is not computed here.
        """
        folder = _folder(str(source), hub)
        path = folder / CONFIG
        if not path.is_file():
            raise ConfigError(f"{folder} has no {CONFIG}: pass the folder of a glimpse predictor")
        facts = facts_of(read_config(path), path)
        with torch.device("cpu"):  # whatever the default device and dtype are
            made = cls(facts).to(dtype)
        if (folder / OWN).is_file():
            state = _safetensors(folder / OWN)
        elif (folder / PUBLISHED).is_file():
            state = _published(folder / PUBLISHED, facts, read_config(path))
        else:
            held = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
            raise ConfigError(f"{folder} has neither {OWN} nor {PUBLISHED}; it holds {held}")
        _fill(made, state, folder)
        return made.eval().requires_grad_(False)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write config.json and model.safetensors: no pickle, and only what inference needs.

        Args:
            folder: made if missing.
            dtype: of the tensors on disk; None keeps them as they are.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: tensor.to(dtype or tensor.dtype).contiguous().cpu() for name, tensor in self.state_dict().items()
        }
        save_file(state, str(folder / OWN), metadata={"format": "pt"})
        (folder / CONFIG).write_text(self.facts.to_json(), encoding="utf-8")
        return folder


def load_predictor(source: str) -> GlimpseVIP:
    """Load a predictor once for all configs that name it, and again when its files have changed.

    The hub is asked once: this runs for every prompt.
    """
    here = source == "bundled" or Path(source).is_dir()
    folder = _folder(source, {}) if here else _downloaded(source)
    files = [folder / name for name in (CONFIG, OWN, PUBLISHED)]
    return _loaded(str(folder), tuple((f.stat().st_mtime_ns, f.stat().st_size) for f in files if f.is_file()))


@lru_cache(maxsize=16)
def _downloaded(source: str) -> Path:
    return _folder(source, {})


@lru_cache(maxsize=4)
def _loaded(folder: str, stamps: tuple[tuple[int, int], ...]) -> GlimpseVIP:
    return GlimpseVIP.from_pretrained(folder)


def _folder(source: str, hub: dict[str, Any]) -> Path:
    if source == "bundled":
        return _BUNDLED
    if Path(source).is_dir():
        return Path(source)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ConfigError(
            f"no folder at {quoted(source)}, and that is no hub id like 'ashun989/GlimpsePrune_Qwen2.5-VL-7B-Instruct'"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=[CONFIG, PUBLISHED, OWN], **hub))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = _first_line(error)
        raise SetupError(
            f"cannot load the glimpse predictor {quoted(source)}: {reason}\nWithout network, run `hf download {source} "
            f"--local-dir {source.split('/')[-1]}` where there is one, copy the folder and pass "
            f"glimpse_path='./{source.split('/')[-1]}'"
        ) from error


def _published(path: Path, facts: GlimpseFacts, config: dict[str, Any]) -> dict[str, Tensor]:
    """Read the authors' file, and make the glimpse vectors of its parts."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, LookupError, AttributeError) as error:
        # what the unpickler says of bytes that are no pickle depends on the bytes
        raise SetupError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as tensors alone: {_first_line(error):.200}. "
            "Was its download cut short? Nothing else in it was run"
        ) from error
    if not isinstance(held, dict) or not set(_PUBLISHED_ENTRIES) <= held.keys():
        found = sorted(map(str, held)) if isinstance(held, dict) else type(held).__name__
        raise ConfigError(f"{path} holds {found}, a published glimpse checkpoint holds {list(_PUBLISHED_ENTRIES)}")
    try:
        placed, owners = held["learnable_embeddings"].float(), list(config["le_layers"])
        if owners[:1] != [0] or placed.shape != (len(owners), 1, facts.hidden_size):
            raise ValueError(
                f"{list(placed.shape)} glimpse embeddings for layers {owners} of width {facts.hidden_size}"
            )
        own = nn.functional.linear(placed[:, 0], held["le_proj"]["weight"].float(), held["le_proj"]["bias"].float())
        own = nn.functional.rms_norm(
            own, own.shape[-1:], held["le_norm"]["weight"].float(), config.get("rms_norm_eps", 1e-6)
        )
        vectors = own.new_zeros(facts.layers, facts.hidden_size)
        vectors[owners] = own
        state = {f"vip.{name}": tensor.float() for name, tensor in held["attn_fuser"].items()}
    except (KeyError, ValueError, RuntimeError, IndexError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} does not fit its {CONFIG}: {error}") from error
    return {**state, "glimpse_vectors": vectors}


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        held: dict[str, Tensor] = load_file(str(path))
        return held
    except SafetensorError as error:
        raise SetupError(
            f"{path} ({path.stat().st_size} bytes) is damaged: {error}. Copy or download it again"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _fill(made: GlimpseVIP, state: dict[str, Tensor], folder: Path) -> None:
    wanted = {name: list(tensor.shape) for name, tensor in made.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in state.items()}
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise ConfigError(
                f"{folder}: {name} is {found.get(name, 'missing')} in the file and {wanted.get(name, 'nothing')} by "
                f"{CONFIG}: the two do not belong together"
            )
        if not bool(state[name].isfinite().all()):  # it would keep its least, and never say why
            raise ConfigError(f"{folder}: {name} holds NaN or infinite numbers: the predictor's training went wrong")
    made.load_state_dict({name: tensor.float() for name, tensor in state.items()})
