"""What a second question about a video costs: ``python -m research.session_speed`` writes a record of it.

The record is eval/results/session_speed.json. A model with random weights is asked about one video of random pixels, of
which half moves: a fresh call with the encoder in it, a fresh prefill (the video's features are held), a later question
that reuses the prefix (`prunevid_qwen.forward.prefix`), and a later question to the stock model over a kept cache of
the same prefix. All take turns in one process. What is predicted is the share of token-layers that a question runs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import DynamicCache

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.vision import EncodedVideos, vision_from_memory
from prunevid_qwen.answers.follow_up import with_cache_named
from prunevid_qwen.cli import run_script
from prunevid_qwen.config import PruneVidConfig, get_config
from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.report.page import json_text
from prunevid_qwen.evaluation.speed.model_shapes import build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs
from prunevid_qwen.evaluation.speed.speed_run import hardware
from prunevid_qwen.evaluation.speed.video_contents import content_pixels
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.prefix import Prefixes
from prunevid_qwen.receipt import versions
from research.shapes_run import RESULTS, command_of

PRESETS = ("paper", "recommended")
RESULT = RESULTS / "session_speed.json"
_WORDS = 12  # of a question that differ from another's


class Asked:
    """One model and one video, asked one question after the other.

    Args:
        shape: of `prunevid bench speed --shape`.
        frames: of the video, of 10 x 14 tokens each two.
        content: of the video, as `prunevid bench speed --still` counts it.
    """

    def __init__(self, shape: str, frames: int, content: float) -> None:
        model_shape = shape_called(shape)
        self.model = build_model(model_shape, torch.device("cpu"), torch.float32, "sdpa")
        self.size = PromptSize(frames, 10, 14)
        self.inputs = make_inputs(self.size, self.model, content_pixels(self.size, content, 0))
        self.adapter = adapter_for(self.model)
        tower = self.adapter.parts.vision
        self.held = EncodedVideos(tower)
        began = time.perf_counter()
        with torch.inference_mode():
            features = self.held.encode(self.inputs["pixel_values_videos"], self.inputs["video_grid_thw"])
        self.encoding = time.perf_counter() - began
        self.shown = {**self.inputs, "pixel_values_videos": self.held.hold(features)}
        self._asked = 0

    def question(self, held: bool) -> dict[str, Any]:
        """Return the inputs of another question than the last one, with pixels or with the features that are held."""
        self._asked += 1
        inputs = dict(self.shown if held else self.inputs)
        ids = inputs["input_ids"].clone()
        ids[:, -_WORDS:] = ids[:, -_WORDS:].roll(self._asked, dims=1)
        return {**inputs, "input_ids": ids}

    def seconds(self, inputs: dict[str, Any], config: PruneVidConfig | None, prefixes: Prefixes | None = None) -> float:
        """Time a call up to its first token."""
        memory = vision_from_memory(self.adapter.parts.vision, self.held)
        hooked = nullcontext() if config is None else pruned(self.model, config, prefixes=prefixes)
        with torch.inference_mode(), memory, hooked:
            began = time.perf_counter()
            self.model.generate(**inputs, max_new_tokens=1, do_sample=False)
            return time.perf_counter() - began

    def kept_cache(self) -> tuple[Any, Any]:
        """Return the stock model's cache of the prompt up to the last visual token, and the positions' offset."""
        inputs = self.question(held=True)
        kinds = inputs["mm_token_type_ids"][0]
        length = int(kinds.nonzero()[-1]) + 1
        cut = {name: inputs[name][:, :length] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
        cache = DynamicCache(config=self.model.config.get_text_config())
        with torch.inference_mode(), vision_from_memory(self.adapter.parts.vision, self.held):
            named = with_cache_named(self.model, {"cache": cache})
            self.model(**{**inputs, **cut}, **named, use_cache=True, logits_to_keep=1)
        return cache, self.adapter.deltas

    def stock_over(self, cache: Any, deltas: Any) -> float:
        """Time a question to the stock model over a copy of its kept cache; making the copy does not count."""
        inputs, own = self.question(held=True), with_cache_named(self.model, {"cache": copy.deepcopy(cache)})
        text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        self.adapter.deltas = None if deltas is None else deltas.clone()
        with torch.inference_mode():
            began = time.perf_counter()
            self.model.generate(
                **text, **with_cache_named(self.model, {"cache": own}), max_new_tokens=1, do_sample=False
            )
            return time.perf_counter() - began


def predicted(asked: Asked, config: PruneVidConfig) -> float:
    """Return the share of token-layers of a fresh prefill that a later question runs."""
    prefixes = Prefixes()
    inputs = asked.question(held=True)
    memory = vision_from_memory(asked.adapter.parts.vision, asked.held)
    with torch.inference_mode(), memory, pruned(asked.model, config, prefixes=prefixes) as trace:
        asked.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert prefixes.held is not None
    (sample,) = trace.samples
    widths = [
        visual + text
        for visual, text in zip(sample.widths(trace.layers), sample.text_widths(trace.layers), strict=True)
    ]
    own = [width - prefixes.held.length if layer <= prefixes.held.at else width for layer, width in enumerate(widths)]
    return sum(own) / sum(widths)


def main(
    shape: Annotated[str, typer.Option(help="Of prunevid bench speed.")] = "7b_small",
    frames: Annotated[int, typer.Option(min=2, help="Frames of 10 x 14 tokens each two.")] = 32,
    rounds: Annotated[int, typer.Option(min=3, help="Rounds; medians are given.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 2,
    content: Annotated[float, typer.Option(help="Share of the video that stands still.")] = 0.5,
    out: Annotated[Path, typer.Option(help="The record.")] = RESULT,
) -> None:
    """Time first and later questions in turns, and write the shares; needs an idle machine."""
    about = surroundings()
    torch.set_num_threads(threads)
    asked = Asked(shape, frames, content)
    configs = {name: get_config(name) for name in PRESETS}
    prefixes = {name: Prefixes() for name in PRESETS}
    cache, deltas = asked.kept_cache()

    def ask(held: bool, config: PruneVidConfig | None, own: Prefixes | None = None) -> float:
        return asked.seconds(asked.question(held), config, own)

    runs: dict[str, Callable[[], float]] = {
        "stock, fresh call": partial(ask, False, None),
        "stock, fresh prefill": partial(ask, True, None),
        "stock, kept cache": partial(asked.stock_over, cache, deltas),
    }
    for name, config in configs.items():
        runs[f"{name}, fresh call"] = partial(ask, False, config)
        runs[f"{name}, fresh prefill"] = partial(ask, True, config)
        runs[f"{name}, later question"] = partial(ask, True, config, prefixes[name])
    for run in runs.values():  # the first of each warms up; of a prefix it makes it
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
        typer.echo(f"round {number + 1} of {rounds}", err=True)
    if any(each.outcome != "reused" for each in prefixes.values()):
        raise RuntimeError(f"a later question reused nothing: {[each.why for each in prefixes.values()]}")

    def share(over: str, under: str) -> dict[str, Any]:
        ratios = [one / other for one, other in zip(found[over], found[under], strict=True)]
        return Quantiles.of(ratios).to_dict()

    rows = []
    for name, config in configs.items():
        later = f"{name}, later question"
        rows.append(
            {
                "preset": name,
                "of_fresh_prefill": share(later, f"{name}, fresh prefill"),
                "predicted": round(predicted(asked, config), 4),
                "of_fresh_call": share(later, f"{name}, fresh call"),
                "of_stock_kept_cache": share(later, "stock, kept cache"),
                "of_stock_fresh_call": share(later, "stock, fresh call"),
                "prefix_bytes": prefixes[name].bytes,
            }
        )
    record = {
        "what": "time to the first token of a later question about a video, against a fresh one",
        "command": command_of("research.session_speed"),
        "shape": shape,
        "frames": frames,
        "prompt_tokens": int(asked.inputs["input_ids"].shape[1]),
        "still": content,
        "seconds": {name: Quantiles.of(each).to_dict() for name, each in found.items()},
        "rows": rows,
        "hardware": hardware("cpu"),
        "versions": versions(),
        **about,
    }
    out.write_text(json_text(record), encoding="utf-8")
    typer.echo(json_text(rows))


if __name__ == "__main__":
    run_script(main)
