"""Time every method's choice of tokens at the size of a 7B: ``python -m research.choose_cost``.

Writes eval/results/choose_cost.json. A method is shown random evidence in the true shape (width 3,584, 28 and 4 heads
of 128 channels, a tower of 16 heads of 80). The time is that of the attention or keys computed for it, of its decision
at each of its cuts, and of merging. The prefill that it saves is counted in FLOPs, over the rate of one decoder layer
of that shape in the same run.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional

from prunevid_qwen.cli import run_script
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_classes import STAGES, classes_of
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.speed.flops import decoder_flops
from prunevid_qwen.evaluation.speed.model_shapes import shape_called
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.forward.plan import Plan, compile_plan
from prunevid_qwen.kernels.pooled_attention import pooled_attention
from prunevid_qwen.kernels.question_attention import question_attention
from prunevid_qwen.kernels.received_attention import received_attention
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.receipt import versions
from prunevid_qwen.reducer import Prepares, Reducer, says
from prunevid_qwen.tokens import Block, TokenLayout
from prunevid_qwen.tokens.trace import Reduction, SampleTrace
from research.shapes_run import RESULTS, command_of

GRIDS = {2048: (16, 8, 16), 16384: (128, 8, 16)}
"""Temporal positions, rows and columns of a video, by its number of tokens."""

KEPT, MOST = 0.25, 0.05
"""Share of the tokens kept, and the largest share of the saved prefill that a choice may cost."""

TEXT, ASKING = 60, 24  # tokens beside the video, and those of them after it
HEADS, GROUPED, HEAD = 28, 4, 128
TOWER_HEADS, TOWER_HEAD, PATCHES = 16, 80, 4  # patches of a token
RATE_TOKENS = 512

Row = dict[str, Any]
Looks = list[Callable[[], Any]]


def configs(shape: Any) -> dict[tuple[int, str], PruneVidConfig | str]:
    """Return the config in which each registered method acts alone and keeps ``KEPT``, or why it is left out.

    A selector cuts at the layers of its paper.
    """
    found: dict[tuple[int, str], PruneVidConfig | str] = {}
    for part, stage in STAGES.items():
        for name, cls in classes_of(part).items():
            said = says(cls(), stage)
            other = {"enable_stage1": False} if stage == 2 else {"enable_stage2": False}
            share = {said.lever or "keep_ratio": KEPT}
            try:
                config = PruneVidConfig(**{**other, part: name, **share, **said.lever_needs})
                needs = [step.by.needs for step in compile_plan(config, shape.text_config.num_hidden_layers).steps]
                odd = said.told or said.trained or any(each.probe or each.marks for each in needs)
                found[stage, name] = "it acts by weights or marks of its own" if odd else config
            except ConfigError as error:
                found[stage, name] = str(error)
    return found


def layout_of(tokens: int) -> TokenLayout:
    """A video of so many tokens, one of ``GRIDS``, between the text before it and the question."""
    before = TEXT - ASKING
    visual, question = torch.arange(before, before + tokens), torch.arange(before + tokens, tokens + TEXT)
    block = Block("video", GRIDS[tokens], 0, tokens)
    return TokenLayout(tokens + TEXT, visual, question, (block,), torch.zeros(tokens, dtype=torch.long))


@cache
def noise(*sizes: int) -> Tensor:
    """Random numbers, the same tensor for the same sizes."""
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(sum(sizes)))


def video(tokens: int, width: int) -> Tensor:
    """Make a video's tokens, [N, width]: a new picture every 8 positions with a tenth of noise, a quarter of it new."""
    t, h, w = GRIDS[tokens]
    still = noise(-(-t // 8), h, w, width).repeat_interleave(8, dim=0)[:t] + 0.1 * noise(t, h, w, width)
    still[:, : h // 4] = noise(t, h, w, width)[:, : h // 4]
    return still.reshape(tokens, width)


def shown(reducer: Reducer, layout: TokenLayout, hidden: Tensor, **place: Any) -> tuple[Evidence, Looks]:
    """Return the evidence that a reducer asks for, and the calls by which a model computes it."""
    needs: Needs = reducer.needs
    n, width = hidden.shape
    rows = {"": 0, "last": 1}.get(str(needs.question), ASKING)
    seen: Row = {"question": noise(ASKING, width)[:rows]}
    looks: Looks = []
    own_keys, weights = noise(GROUPED, layout.length, HEAD), noise(GROUPED * HEAD, width)
    made_keys = lambda: functional.linear(noise(layout.length, width), weights)  # noqa: E731
    if needs.keys:
        seen["keys"] = noise(GROUPED, n, HEAD)
        seen["question_keys"] = noise(GROUPED, ASKING, HEAD)[:, :rows]
        looks += [made_keys] if place["layer"] < 0 else []
    if needs.angles:
        turns = noise(n, HEAD // 2).repeat(1, 2)
        seen["angles"] = torch.stack([turns.cos(), turns.sin()])
    if isinstance(reducer, Prepares):
        seen["note"] = reducer.prepare(Evidence(layout, hidden, noise(ASKING, width)[:rows], start=n))
    if needs.attention is not None:
        query, asked = needs.attention, layout.asking("last" if needs.attention.tokens == "last" else "all")
        heard = seen.get("note") if query.tokens == "noted" else None
        pull = (noise(asked.numel(), HEAD), noise(n, HEAD)) if query.gravity else None
        best = int(HEADS * query.top_heads) if isinstance(query.top_heads, float) else query.top_heads

        def attend() -> Tensor:
            return question_attention(
                noise(HEADS, asked.numel(), HEAD), own_keys, layout.visual, asked, HEAD**-0.5, query.heads, query.rows,
                best, heard, pull,
            )  # fmt: skip

        seen["attention"] = attend()
        looks += [attend] + ([made_keys] if query.projections == "next" or query.source == "pre_rope" else [])
    if needs.vision is not None:
        blocks, kinds = len(needs.vision.blocks), needs.vision.kinds
        seen["vision"] = {kind: noise(blocks, n, TOWER_HEAD) for kind in kinds if kind in ("keys", "states")}
        patches = [PATCHES * n // GRIDS[n][0]] * GRIDS[n][0]  # a tower attends within a position
        q, k = noise(TOWER_HEADS, PATCHES * n, TOWER_HEAD), noise(TOWER_HEADS, PATCHES * n, TOWER_HEAD)
        for kind in kinds:
            if kind == "pooled":
                look = lambda: pooled_attention(q, k, patches, PATCHES, TOWER_HEAD**-0.5)  # noqa: E731
            elif kind in ("received", "salience"):
                look = lambda: received_attention(q, k, patches, TOWER_HEAD**-0.5)  # noqa: E731
            else:
                continue
            seen["vision"][kind] = noise(blocks, n).abs()
            looks += [look] * blocks
    return Evidence(layout, hidden, **seen, **place), looks


def choose(plan: Plan, layers: int, hidden: Tensor) -> tuple[float, list[int]]:
    """Let a plan choose among a video's tokens [N, D]; return the seconds, and the visual tokens of each layer."""
    tokens, seconds = hidden.shape[0], 0.0
    layout = layout_of(tokens)
    entered, cuts, whole = dict[int, tuple[int, ...]](), list[Reduction](), layout.length
    for step in plan.steps:
        entered.setdefault(id(step.by), tuple(block.stop - block.start for block in layout.blocks))
        seen, looks = shown(
            step.by, layout, hidden, step=plan.number_of(step), layer=step.at, entered=entered[id(step.by)],
            steps_at=plan.places_of(step.by), depth=layers, start=tokens,
        )  # fmt: skip
        start = time.perf_counter()
        for look in looks:
            look()
        chosen = step.by.plan(seen)
        left = chosen.take(hidden, 0) if chosen.target.lt(0).any() else chosen.mean(hidden)
        seconds += time.perf_counter() - start
        cuts.append(Reduction(step.at, step.name, chosen))
        layout, hidden = layout.apply(chosen)[0], left
    return seconds, SampleTrace((), tokens, whole, tuple(cuts)).widths(layers)


def peak_bytes(function: Callable[[], Any]) -> int:
    """Return the most memory that torch held at once for tensors that a call made."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def flops_a_second(shape: Any, repeats: int) -> float:
    """Time one decoder layer in the true shape, fp32."""
    from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

    text = shape.text_config
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    config = Qwen2Config(num_hidden_layers=1, **{name: getattr(text, name) for name in names})
    config._attn_implementation = "sdpa"
    layer = Qwen2DecoderLayer(config, 0).eval()
    hidden, places = noise(1, RATE_TOKENS, text.hidden_size), torch.arange(RATE_TOKENS)[None]
    angles = Qwen2RotaryEmbedding(config)(hidden, places)
    times = []
    for turn in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        layer(hidden, position_embeddings=angles, attention_mask=None, position_ids=places)
        times += [time.perf_counter() - start] if turn else []
    return decoder_flops(shape, [RATE_TOKENS])["total_causal"] / statistics.median(times)


def measure(config: PruneVidConfig, shape: Any, tokens: int, repeats: int, rate: float) -> Row:
    """Time one method at one size."""
    layers, width = shape.text_config.num_hidden_layers, shape.text_config.hidden_size
    plan, times, widths = compile_plan(config, layers), list[float](), list[int]()
    hidden = video(tokens, width)
    choose(plan, layers, hidden)  # warms up, and makes the evidence
    peak = peak_bytes(lambda: choose(plan, layers, hidden))
    for _ in range(repeats):
        took, widths = choose(plan, layers, hidden)
        times.append(took)
    counted = [decoder_flops(shape, [n + TEXT for n in each]) for each in ([tokens] * layers, widths)]
    whole, pruned = (each["total_causal"] for each in counted)
    seconds, saved = statistics.median(times), (whole - pruned) / rate
    return {
        "tokens": tokens,
        "left": widths[-1],
        "layer_average": round(sum(widths) / (layers * tokens), 4),
        "seconds": round(seconds, 4),
        "saved_seconds": round(saved, 2),
        "share": round(seconds / saved, 5) if saved else None,
        "pays": bool(saved) and seconds <= MOST * saved,
        "peak_bytes": peak,
    }


@torch.no_grad()
def main(
    sizes: Annotated[str, typer.Option(help="Tokens of the video.")] = ",".join(map(str, GRIDS)),
    methods: Annotated[str, typer.Option(help="Names, with commas between. Default: all.")] = "",
    repeats: Annotated[int, typer.Option(help="Times that each is timed.")] = 5,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    out: Annotated[Path, typer.Option(help="The raw figures, JSON. Written after each method.")] = RESULTS
    / "choose_cost.json",
) -> None:
    """Print a line for each method and size, and write the raw figures."""
    torch.set_num_threads(threads)
    shape, named = shape_called("7b"), [name for name in methods.split(",") if name]
    rate, load = flops_a_second(shape, repeats), os.getloadavg()[0]
    typer.echo(f"{threads} threads, load {load:.2f}: {rate / 1e9:.1f} GFLOP/s in a decoder layer")
    record: Row = {
        "what": "time to choose, with the evidence that is computed for it, beside the prefill saved; random evidence "
        "in the shape of Qwen2.5-VL-7B, float32",
        "command": command_of("research.choose_cost"), **surroundings(), "versions": versions(), "threads": threads,
        "repeats": repeats, "load": load, "kept": KEPT, "most_share": MOST, "flops_a_second": round(rate), "rows": [],
        "left_out": {},
    }  # fmt: skip
    for (stage, name), config in configs(shape).items():
        if named and name not in named:
            continue
        if isinstance(config, str):
            record["left_out"][f"{stage} {name}"] = config
            continue
        for tokens in map(int, sizes.split(",")):
            row = {"stage": stage, "name": name, **measure(config, shape, tokens, repeats, rate)}
            record["rows"].append(row)
            typer.echo(
                f"{name:>15} stage {stage} {tokens:>6} -> {row['left']:>5}: {row['seconds']:.3f} s of "
                f"{row['saved_seconds']:.1f} s saved; {row['peak_bytes'] / 2**20:.0f} MiB; pays: {row['pays']}"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
