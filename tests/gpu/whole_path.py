"""The pruned forward on a device: what it keeps, what it leaves as it was, and how often the host waits."""

from __future__ import annotations

import contextlib
import copy
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.model import PruneVidQwen25VL
from research.bundled_model.architecture import build_model
from research.bundled_model.tokenizer import build_tokenizer
from tests.models import CASES, make_inputs, tiny_model
from tests.tolerances import LOGITS, close

PRUNES = {"tau": 0.5, "cluster_ratio": 0.5, "pruning_layer": 2, "min_cluster_tokens": 4, "temporal_segment_ratio": 0.5}
KEEPS = {"tau": 1.0, "cluster_ratio": 1.0, "keep_ratio": 1.0, "pruning_layer": 2, "min_cluster_tokens": 0}
PACKAGE = Path(__file__).resolve().parents[2] / "prunevid_qwen"
SYNCS = {
    "one_video": {"reading the prompt": 1, "vision": 2, "stage 1": 1},
    "ragged": {"reading the prompt": 1, "vision": 2, "stage 1": 3 + 1, "stage 2": 1, "masks": 2},
}
"""How often the host may wait for the device in one prefill: once for the prompt; in the
vision tower for the bounds of windows and of positions; in stage 1 for the lengths of each
video, in both stages for those of each row with several; the library asks of a padded mask whether it hides any."""


def _on(device: torch.device, case: str, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    model = copy.deepcopy(tiny_model(dtype=dtype)).to(device)
    return model, {name: value.to(device) for name, value in _inputs(case).items()}


def _inputs(case: str) -> dict[str, Any]:
    made = make_inputs(CASES[case])
    return {name: torch.as_tensor(value) for name, value in made.items()}


@contextlib.contextmanager
def _exact_convolutions() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32  # on by default: ten bits of the patch embedding
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def keeps_the_tokens_that_a_cpu_keeps(device: torch.device, case: str, config: PruneVidConfig | None = None) -> str:
    """Prune one batch on the CPU and on the device in fp32; return what differs, or nothing."""
    config, found = config or PruneVidConfig(**PRUNES), []
    for where in (torch.device("cpu"), device):
        model, inputs = _on(where, case, torch.float32)
        with _exact_convolutions(), torch.no_grad(), pruned(model, config) as trace:
            logits = model(**inputs).logits.cpu()
        found.append((trace.samples, logits))
    (here, wanted), (there, got) = found
    for b, (one, other) in enumerate(zip(here, there, strict=True)):
        for stage in ("merged", "kept"):
            first, second = getattr(one, stage), getattr(other, stage)
            if (first is None) != (second is None):
                return f"row {b}: {stage} on one of the two alone"
            if first is not None and not torch.equal(first.rep.cpu(), second.rep.cpu()):
                return f"row {b}: other tokens are {stage}"
    if not any(one.tokens and one.after_stage2 < one.tokens for one in here):
        return "the case prunes nothing, so it proves nothing"
    return _close(got, wanted)


def _close(got: torch.Tensor, wanted: torch.Tensor) -> str:
    try:
        close(got, wanted, LOGITS)
    except AssertionError as error:
        return " ".join(str(error).split())
    return ""


def keep_everything_equals_stock(
    device: torch.device, case: str, dtype: torch.dtype, keeping: PruneVidConfig | None = None
) -> str:
    """Generate with every stage on and nothing to drop; return how it differs from the stock model, or nothing."""
    out = []
    for config in (None, keeping or PruneVidConfig(**KEEPS, position_scheme="hf")):
        model, inputs = _on(device, case, dtype)
        with contextlib.ExitStack() as stack:
            if config is not None:
                stack.enter_context(pruned(model, config))
            out.append(
                model.generate(
                    **inputs, max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_logits=True
                )
            )
    stock, ours = out
    if not torch.equal(stock.sequences, ours.sequences):
        return "other tokens were generated"
    same = all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))
    return "" if same else "the logits differ in their bits"


def a_stream_is_answered_as_the_whole(device: torch.device) -> str:
    """Answer about a video in chunks, through pinned memory on CUDA, and whole; return how they differ, or nothing."""
    model = PruneVidQwen25VL(build_model(0).eval().to(device), tokenizer=build_tokenizer())
    small = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)  # 16 tokens a temporal position
    model.preprocessor.media = MediaReader(small, small)
    frames = np.random.default_rng(0).integers(0, 256, (32, 112, 112, 3), dtype=np.uint8)
    content = [{"type": "video", "video": frames}, {"type": "text", "text": "what color is the circle ?"}]
    generate = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    messages = [{"role": "user", "content": content}]
    with _exact_convolutions():
        inputs = model.preprocessor.batch([model.preprocessor.sample(messages, model.config)])
        with pruned(model.model, model.config):
            whole = model.model.generate(**{name: each.to(device) for name, each in inputs.items()}, **generate)
        chunked = model.with_config(model.config.replace(vision_chunk_tokens=40))
        ours = chunked.generate(messages=messages, **generate)
    if not torch.equal(ours["output"].sequences, whole.sequences):
        return "other tokens were generated"
    seconds = ours["stats"]["seconds"]
    if sum(seconds[part] for part in ("read", "vision", "merge", "prefill", "select")) > seconds["total"]:
        return f"the parts of the clock are more than the whole: {seconds}"
    return _close(torch.cat(ours["output"].logits).cpu(), torch.cat(whole.logits).cpu())


def part_of(stack: list[traceback.FrameSummary]) -> str:
    """Say which part of the pruning a wait belongs to, by the calls that led to it; nothing where it is the model's."""
    ours = ""
    for frame in reversed(stack):
        path = Path(frame.filename)
        if not ours and {"transformers", "models"} <= set(path.parts):
            return ""
        if not path.is_relative_to(PACKAGE):
            continue
        room, name = path.relative_to(PACKAGE).parts[0], path.name
        if frame.name == "reference_positions":  # stands in for the library's own, which waits as well
            return ""
        if name == "masks.py":
            return "masks"
        if room == "vision":  # once where the library's loop waits in each block
            return "vision"
        if room == "stage1_merge" or frame.name == "merge":
            return "stage 1"
        if room in ("stage2_select", "stage3_kv") or frame.name in ("score", "select"):
            return "stage 2"
        if name == "prompt.py":
            return "reading the prompt"
        if name not in ("vision.py", "hooks.py"):  # what these call is the model's
            ours = ours or f"{path.name}:{frame.lineno} in {frame.name}"
    return ours


def waits(device: torch.device, case: str) -> Counter[str]:
    """Count how often the host waits for the device in one pruned prefill, by part; the model's own waits left out."""
    model, inputs = _on(device, case, torch.bfloat16)
    config = PruneVidConfig(**PRUNES)
    counted: Counter[str] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            counted[part_of(traceback.extract_stack()[:-1])] += 1

    with torch.no_grad(), pruned(model, config):
        model(**inputs)  # compiles what is to be compiled
        torch.cuda.synchronize(device)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.showwarning = note
                model(**inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    counted.pop("", None)
    return counted


def waits_too_often(counted: Counter[str], case: str) -> str:
    """Return which parts waited oftener than SYNCS allows, or nothing."""
    return "; ".join(f"{part}: {n}" for part, n in sorted(counted.items()) if n > SYNCS[case].get(part, 0))
