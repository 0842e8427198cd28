"""``prunevid estimate``: tokens, memory, operations and times of a prompt, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunevid_qwen.cli.groups import ModelOptions
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.output import Done, FileReporting
from prunevid_qwen.cli.pruning_options import CONFIG, PruningOptions
from prunevid_qwen.config.amounts import percent, size
from prunevid_qwen.config.typed import build_config

_PROMPT, _DEVICE = "The prompt", "The device"


def estimate(
    *,
    video: str | None = word(None, "VIDEO", "A video: its header is read. Default: frames of --size."),
    shape: str | None = opt(None, "A published size instead of a model: 3b, 7b, 32b, 72b, qwen3vl-8b ...", "NAME"),
    config: str = CONFIG,
    frame_size: str = opt(
        "1280x720", "Of a frame, where there is no video. Default: 1280x720.", "WxH", _PROMPT, spelling="size"
    ),
    text_tokens: int = opt(60, "Of the prompt beside the video. Default: 60.", "INT", _PROMPT, least=4),
    new_tokens: int = opt(64, "Of the answer. Default: 64.", "INT", _PROMPT, least=1),
    batch: int = opt(1, "Prompts at once. Default: 1.", "INT", _PROMPT, least=1),
    vram: str | None = opt(None, "Memory of the device: what fits is said.", "24GB", _DEVICE),
    tflops: float = opt(
        100.0, "Operations a second that it sustains, in 1e12: an assumption. Default: 100.", "FLOAT", _DEVICE
    ),
    bandwidth: float = opt(2000.0, "GB a second that it reads: an assumption. Default: 2000.", "FLOAT", _DEVICE),
    model: ModelOptions,
    output: FileReporting,
    pruning: PruningOptions,
) -> Done:
    """Estimate tokens, memory, operations and times of a prompt from a model's config: no weights are loaded.

    Times are predictions from the operations and the two rates of the device. Memory is what the tensors of the
    prompt take, without what a driver and an allocator keep for themselves.

    Examples:
      prunevid estimate --shape 7b --max_frames 64 --vram 24GB
      prunevid estimate -m bundled --size 640x360
      prunevid estimate video.mp4 -m Qwen/Qwen2.5-VL-7B-Instruct --config recommended
      prunevid estimate --shape 72b --max_frames 256 --vram 141GB --json
    """
    built = build_config(config, pruning.given)
    from prunevid_qwen.evaluation.estimate import PromptNumbers, Rates
    from prunevid_qwen.evaluation.estimate import estimate as estimated
    from prunevid_qwen.evaluation.estimate.advice import advice
    from prunevid_qwen.evaluation.estimate.memory import weight_bytes
    from prunevid_qwen.evaluation.estimate.sizes import (
        bytes_called,
        check_dtype,
        grid_of_video,
        model_called,
        size_called,
    )
    from prunevid_qwen.loading import HUB_ARGUMENTS

    free, (height, width) = None if vram is None else bytes_called(vram), size_called(frame_size)
    rates, each = Rates(tflops, bandwidth), check_dtype(model.dtype or "bfloat16")
    output.calm_libraries()
    hub = {name: model.loading[name] for name in HUB_ARGUMENTS if model.loading.get(name) is not None}
    of_model, reader = model_called(model.model_path, shape, hub)
    if video is None:
        frames = built.max_frames
        _, rows, columns = reader.grid_of(built, frames, height, width)
    else:
        frames, _, rows, columns = grid_of_video(reader, built, video)
    prompt = PromptNumbers(frames, rows, columns, text_tokens, new_tokens, batch)
    stock = estimated(of_model, None, prompt, each, rates)
    pruned = estimated(of_model, built, prompt, each, rates) if built.enable_stage1 or built.enable_stage2 else None
    weights = weight_bytes(of_model, each)
    told: dict[str, Any] = {
        "model": shape or model.model_path, "config": config, "dtype": model.dtype or "bfloat16", "weights": weights,
        "vram": free, "rates": vars(rates), "stock": stock.to_dict(), "pruned": pruned and pruned.to_dict(),
        "advice": advice(stock, pruned, weights, free),
    }  # fmt: skip
    if free is not None:
        told["fits"] = _fitting(of_model, built, prompt, free - weights, each, stock, pruned)
    return Done(told, "\n".join(report_lines(told)))


def _fitting(of_model: Any, built: Any, prompt: Any, free: int, each: int, stock: Any, pruned: Any) -> dict[str, Any]:
    """Return what fits into so many bytes beside the weights."""
    from prunevid_qwen.evaluation.estimate.estimating import largest_frames, largest_side
    from prunevid_qwen.evaluation.estimate.sizes import largest_budget

    found = {}
    for name, config, own in (("stock", None, stock), ("pruned", built, pruned)):
        if own is not None:
            found[name] = {
                "fits": own.above_weights <= free,
                "largest_frames": largest_frames(of_model, config, prompt, free, each),
                "largest_grid": list(largest_side(of_model, config, prompt, free, each)),
            }
    budget = largest_budget(of_model, built, prompt, free, each) if pruned is not None else None
    if budget is not None:
        found["pruned"]["budget"], found["pruned"]["largest_budget"] = budget
    return found


def report_lines(told: Mapping[str, Any]) -> list[str]:
    """Return an estimate as lines for people."""
    from prunevid_qwen.evaluation.report.page import Table

    stock, pruned = told["stock"], told["pruned"]
    sides = [each for each in (stock, pruned) if each is not None]
    asked = stock["prompt"]

    def row(name: str, *cells: str) -> list[str]:
        return [name, *cells[: len(sides)]]

    def cells(of: Any) -> list[str]:
        return [of(each) for each in sides]

    memory = ("vision", "vision encoder"), ("decoder", "decoder over the prompt"), ("cache", "cache after the prompt")
    rows = [
        row("visual tokens", *cells(lambda each: f"{each['visual']:,}")),
        *_steps(sides),
        row("mean of the layers", *cells(lambda each: f"{each['layer_average']:,.0f}")),
        *(row(f"memory: {words}", *cells(lambda each, name=name: size(each["memory"][name])))
          for name, words in memory),
        row("memory above the weights", *cells(lambda each: size(each["above_weights"]))),
        row("with the weights", *cells(lambda each: size(each["above_weights"] + told["weights"]))),
        *(row(f"TFLOP: {name}", *cells(lambda each, part=part: f"{each['flops'][part] / 1e12:,.2f}"))
          for part, name in (("vision", "vision encoder"), ("decoder", "decoder over the prompt"))),
        *(row(f"predicted s: {name}", *cells(lambda each, part=part: f"{each['seconds'][part]:,.3f}"))
          for part, name in (("vision", "vision encoder"), ("decoder", "decoder over the prompt"),
                             ("first_token", "to the first token"), ("decode_per_token", "each further token"),
                             ("total", "whole answer"))),
    ]  # fmt: skip
    said = (
        f"{told['model']}, {told['dtype']}: weights {size(told['weights'])}. {asked['frames']} frames of "
        f"{asked['rows']} x {asked['columns']} tokens, {stock['text']} text tokens, batch {asked['batch']}, "
        f"{asked['new_tokens']} new tokens"
    )
    rates = told["rates"]
    head = ["", "stock", told["config"]]
    return [
        said, "", Table(head[: 1 + len(sides)], rows).terminal(), "",
        f"Predicted at {rates['tflops']:g} TFLOP/s and {rates['gigabytes']:g} GB/s, which are assumptions: pass "
        "--tflops and --bandwidth of your device.",
        *_fit_lines(told), *told["advice"],
    ]  # fmt: skip


def _steps(sides: Sequence[Any]) -> list[list[str]]:
    if len(sides) < 2:
        return []
    found = []
    for each in sides[1]["steps"]:
        where = "merging" if each["at"] < 0 else f"layer {each['at']}"
        share = percent(each["left"] / sides[1]["visual"])
        found.append([f"  after {where} ({each['name']})", "", f"{each['left']:,} ({share})"])
    return found


def _fit_lines(told: Mapping[str, Any]) -> list[str]:
    if "fits" not in told or told["weights"] > told["vram"]:  # then the advice says so
        return []
    found = [""]
    for name, own in told["fits"].items():
        words = "stock" if name == "stock" else told["config"]
        rows, columns = own["largest_grid"]
        line = (
            f"{words}: {'fits' if own['fits'] else 'does not fit'} into {size(told['vram'])}; at most "
            f"{own['largest_frames']:,} frames of this size, or these frames of {rows} x {columns} tokens"
        )
        if own.get("largest_budget"):
            line += f", or {own['budget']} {own['largest_budget']:g}"
        found.append(line)
    return found
