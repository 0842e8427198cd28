"""A trained predictor in the form of the published checkpoints: config.json and new_modules_gp.pt.

The folder of a run keeps what inference needs, which lacks the projection that the published files have; the run's
checkpoint has all of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.stage2_select.glimpse.facts import LLAVA, GlimpseFacts, facts_of
from prunevid_qwen.stage2_select.glimpse.predictor import CONFIG, PUBLISHED
from prunevid_qwen.training.glimpse.trainee import Trainee
from prunevid_qwen.training.glimpse.training_folder import CHECKPOINT, read_checkpoint

QWEN = "qwen2_5_vl_gp"


def trained(run: Path) -> Trainee:
    """Read what a run of `train` has trained so far, from its checkpoint.

    Args:
        run: the folder of the run.

    Raises:
        ConfigError: it holds no checkpoint.
        SetupError: the checkpoint cannot be read.
    """
    path = run / CHECKPOINT
    if not path.is_file():
        raise ConfigError(f"{run} has no {CHECKPOINT}: pass the folder of a run of `prunevid train glimpse`")
    saved = read_checkpoint(path)
    facts = facts_of(json.loads(saved["about"]["facts"]), path)
    made = Trainee(facts, saved["about"]["recipe"]["le_dropout"], saved.get("eps", 1e-6))  # runs before LLaVA: Qwen's
    made.load_state_dict(saved["trainee"])
    return made.eval()


def write_published(made: Trainee, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a trained predictor as the authors publish theirs, and return the folder.

    Args:
        made: what was trained.
        folder: made if missing.
        dtype: of the tensors on disk; the published ones are bfloat16.

    Raises:
        UnsupportedError: a form that the authors have not: logits of padded images, or probabilities of others.
    """
    state = {name: tensor.detach().to(dtype).cpu() for name, tensor in made.state_dict().items()}

    def part(name: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(f"{name}."): tensor for key, tensor in state.items() if key.startswith(f"{name}.")}

    modules = {
        "attn_fuser": part("vip"), "learnable_embeddings": state["learnable_embeddings"],
        "le_proj": part("le_proj"), "le_norm": part("le_norm"),
    }  # fmt: skip
    config = _config(made.facts, float(made.le_norm.eps or 0), made.dropout)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(modules, folder / PUBLISHED)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def _config(facts: GlimpseFacts, eps: float, dropout: float) -> dict[str, Any]:
    """Describe a predictor by the keys that the published configs have."""
    if facts.use_attention_logits == facts.pad_to_square:
        raise UnsupportedError(
            f"the published forms are attention logits of images that keep their shape (Qwen2.5-VL), or probabilities "
            f"of padded ones (LLaVA-1.5); this predictor has use_attention_logits={facts.use_attention_logits} and "
            f"pad_to_square={facts.pad_to_square}"
        )
    flat = facts.pad_to_square
    config = {
        "model_type": LLAVA if flat else QWEN,
        "num_hidden_layers": facts.layers, "hidden_size": facts.hidden_size, "num_attention_heads": facts.heads,
        "rms_norm_eps": eps, "selected_layers": list(facts.selected_layers), "reduce_layer": facts.reduce_layer,
        "use_attention_logits": facts.use_attention_logits, "attn_fuse_type": "AttnFuserV1",
        "attn_fuse_size": facts.width, "visual_cond_size": facts.condition, "attn_fuse_num_heads": facts.vip_heads,
        "attn_fuse_hidden_act": "silu", "ori_attn_supervision": False, "deep_supervision": False,
        "selected_visual_layers": [block + flat for block in facts.selected_visual_layers],
        "le_layers": list(range(facts.layers)), "le_length": 1, "le_dropout_prob": dropout,
        "reduce_threshold": 0.5, "min_remain_num": 1, "max_remain_ratio": None,
    }  # fmt: skip
    if flat:
        return {**config, "mm_hidden_size": facts.vision_width, "image_aspect_ratio": "pad"}
    vision = {"hidden_size": facts.vision_width}
    return {**config, "attn_fuse_global": True, "le_norm_type": "rmsnorm", "vision_config": vision}
