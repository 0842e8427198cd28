"""A stand-in for the flash-attention kernels in plain torch, so that their code path (two-dimensional masks, unpadding,
detection of packed sequences) runs on a CPU. It proves how masks and positions are passed on, not the real kernel.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
import transformers.modeling_flash_attention_utils as library
from torch import Tensor

CALLS = {"dense": 0, "varlen": 0}


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None, causal: bool) -> Tensor:
    """Attention of [Lq, H, d] on [Lk, Hkv, d]; the causal rule is aligned to the end, as in flash-attention >= 2.1."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    logits = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        ahead = torch.arange(k.shape[0])[None] - torch.arange(q.shape[0])[:, None]
        logits = logits.masked_fill(ahead > k.shape[0] - q.shape[0], float("-inf"))
    return torch.einsum("hqk,khd->qhd", logits.softmax(-1), v)


def dense(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, deterministic: bool = False,
) -> Tensor:  # fmt: skip
    CALLS["dense"] += 1
    return torch.stack([_attend(q[b], k[b], v[b], softmax_scale, causal) for b in range(q.shape[0])])


def varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, deterministic: bool = False,
) -> Tensor:  # fmt: skip
    CALLS["varlen"] += 1
    return torch.cat(
        [
            _attend(q[a:b], k[c:d], v[c:d], softmax_scale, causal)
            for a, b, c, d in zip(cu_seqlens_q, cu_seqlens_q[1:], cu_seqlens_k, cu_seqlens_k[1:], strict=False)
        ]
    )


def install(monkeypatch: Any) -> None:
    """Let the library find these functions instead of the flash_attn package."""
    process = library._lazy_define_process_function(varlen)
    source = inspect.getsource(library._flash_attention_forward)
    newest = "process_paged_kwargs_fn" in source
    with_cache = newest or "flash_kvcache_fn" in source or "_, pad_fn" in source
    kernels = (dense, varlen, *([None] if with_cache else []), library._pad_input, library._unpad_input)
    found = (kernels, (process, process) if newest else process)
    monkeypatch.setattr(library, "lazy_import_flash_attention", lambda *_a, **_k: found)


def flash_model(model: Any) -> Any:
    """A copy of a model that believes it runs flash-attention."""
    model = copy.deepcopy(model)
    for config in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        config._attn_implementation_internal = "flash_attention_2"
    for config in (model.config, model.config.text_config, model.config.vision_config):
        config._attn_implementation_internal = "flash_attention_2"
    return model
