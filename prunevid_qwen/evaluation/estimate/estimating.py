"""`estimate`: what a prompt costs a model, from configs alone: fast enough for a server to ask before each request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.option_checks import check_count
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.estimate.memory import Footprint, Load, entries_after, footprint
from prunevid_qwen.evaluation.estimate.token_counts import StepCount, step_counts, widths_of
from prunevid_qwen.evaluation.speed.flops import decode_flops, decoder_flops, grouped, lm_head_flops
from prunevid_qwen.evaluation.speed.prompt_forms import form_of
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize
from prunevid_qwen.evaluation.speed.vision_flops import vision_flops
from prunevid_qwen.forward.plan import compile_plan


@dataclass(frozen=True)
class Rates:
    """How fast a device is, as somebody assumes.

    Args:
        tflops: operations a second that it sustains in matrix products, in 1e12, above 0.
        gigabytes: bytes a second that it reads from its memory, in 1e9, above 0.

    Raises:
        ConfigError: a rate that is not above 0.
    """

    tflops: float = 100.0
    gigabytes: float = 2000.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"{name} is a rate above 0, got {value}")


@dataclass(frozen=True)
class PromptNumbers:
    """What is asked.

    Args:
        frames: of each row's video, at least 1.
        rows: of the visual tokens of a temporal position, at least 1.
        columns: the same.
        text_tokens: beside the frames and their times, at least 4.
        new_tokens: of the answer, at least 1.
        batch: rows, at least 1.

    Raises:
        ConfigError: one of them is less.
    """

    frames: int
    rows: int
    columns: int
    text_tokens: int = 60
    new_tokens: int = 64
    batch: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_count(name, value, 4 if name == "text_tokens" else 1)


@dataclass(frozen=True)
class PromptEstimate:
    """What a prompt costs.

    Args:
        prompt: that was asked about.
        visual: visual tokens of a row before pruning.
        text: its other tokens.
        steps: what each step of the pruning leaves; () without pruning.
        layer_average: visual tokens that a layer runs on, the mean.
        memory: bytes above the weights.
        cache_end: bytes of keys and values after the answer.
        flops: of "vision", "decoder" (the prompt) and "decode_step" (each further token), all rows.
        seconds: predicted from `Rates`: "vision", "decoder", "first_token" (both), "decode_per_token", "total".
    """

    prompt: PromptNumbers
    visual: int
    text: int
    steps: tuple[StepCount, ...]
    layer_average: float
    memory: Footprint
    cache_end: int
    flops: dict[str, int]
    seconds: dict[str, float]

    @property
    def above_weights(self) -> int:
        """Bytes that have to be free beside the weights: at the fullest moment, or for the cache at the end."""
        return max(self.memory.peak + self.memory.pixels, self.cache_end)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        made = {name: value for name, value in vars(self).items() if name not in ("prompt", "steps", "memory")}
        made |= {"prompt": asdict(self.prompt), "steps": [each.to_dict() for each in self.steps]}
        return {
            **made,
            "memory": {**asdict(self.memory), "peak": self.memory.peak},
            "above_weights": self.above_weights,
        }


def estimate(
    shape: Any, config: PruneVidConfig | None, prompt: PromptNumbers, bytes_each: int = 2, rates: Rates | None = None
) -> PromptEstimate:
    """PromptEstimate what a prompt costs a model.

    Args:
        shape: the model's config, such as ``AutoConfig.from_pretrained(...)``; no weights are looked at.
        config: the pruning; None for the stock model, whose vision encoder takes a video at once.
        prompt: how much is asked about.
        bytes_each: of a weight and of a state: 2 for bfloat16.
        rates: of the device, for the seconds.

    Raises:
        ConfigError: the config does not fit the model, or its prompts are of another kind.
        UnsupportedError: the memory of this family is not counted.
    """
    rates, planned = rates or Rates(), _planned(shape, config, prompt, bytes_each)
    size, load, steps, memory = planned
    widths, batch, layers = load.widths, prompt.batch, len(load.widths)
    held = entries_after(widths, load.cut)
    flops = {  # each position on its own, in every tower that is counted
        "vision": size.positions * vision_flops(shape, (1, prompt.rows, prompt.columns), batch),
        "decoder": decoder_flops(shape, widths, batch)["total_causal"] + lm_head_flops(shape, batch),
        "decode_step": decode_flops(shape, [each + 1 for each in held], batch),
    }
    end = _cache_end(shape, planned, prompt, bytes_each)
    average = sum(widths) / layers - size.all_text
    return PromptEstimate(
        prompt, size.visual_tokens, size.all_text, tuple(steps), average, memory, end, flops,
        _seconds(flops, shape, held, prompt, bytes_each, rates),
    )  # fmt: skip


class _Planned(NamedTuple):
    size: PromptSize
    load: Load
    steps: list[StepCount]
    memory: Footprint


def _planned(shape: Any, config: PruneVidConfig | None, prompt: PromptNumbers, bytes_each: int) -> _Planned:
    """Return what is known of a prompt without counting operations."""
    size = PromptSize(prompt.frames, prompt.rows, prompt.columns, prompt.text_tokens, batch=prompt.batch,
                      form=form_of(shape))  # fmt: skip
    layers = int(shape.text_config.num_hidden_layers)
    plan = None if config is None else compile_plan(config, layers)
    steps = [] if plan is None else step_counts(plan, (size.positions, prompt.rows, prompt.columns))
    widths = [each + size.all_text for each in widths_of(steps, size.visual_tokens, layers)]
    inside = [each.at for each in steps if each.at >= 0]
    load = Load(
        size.positions, prompt.rows * prompt.columns, size.length, tuple(widths),
        max(inside) if plan is not None and plan.compress and inside else None, bool(steps),
        None if plan is None else plan.vision_chunk_tokens, prompt.batch, bytes_each,
    )  # fmt: skip
    return _Planned(size, load, steps, footprint(shape, load))


def _cache_end(shape: Any, planned: _Planned, prompt: PromptNumbers, bytes_each: int) -> int:
    entry = 2 * grouped(shape) * bytes_each * prompt.batch
    return int(planned.memory.cache + entry * len(planned.load.widths) * (prompt.new_tokens - 1))


def bytes_needed(shape: Any, config: PruneVidConfig | None, prompt: PromptNumbers, bytes_each: int = 2) -> int:
    """Return `PromptEstimate.above_weights` without counting operations: in milliseconds. Arguments as `estimate`."""
    planned = _planned(shape, config, prompt, bytes_each)
    return max(planned.memory.peak + planned.memory.pixels, _cache_end(shape, planned, prompt, bytes_each))


def _seconds(
    flops: dict[str, int], shape: Any, held: list[int], prompt: PromptNumbers, bytes_each: int, rates: Rates
) -> dict[str, float]:
    rate = rates.tflops * 1e12
    vision, decoder = flops["vision"] / rate, flops["decoder"] / rate
    weights = bytes_each * decode_flops(shape, [0] * len(held)) // 2  # each is read once a step, for all rows
    entries = 2 * grouped(shape) * bytes_each * prompt.batch * sum(held)
    step = max(flops["decode_step"] / rate, (weights + entries) / (rates.gigabytes * 1e9))
    found = {"vision": vision, "decoder": decoder, "first_token": vision + decoder, "decode_per_token": step}
    return {**found, "total": vision + decoder + step * (prompt.new_tokens - 1)}


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest count from 1 to ``limit`` that fits, 0 if none does; what fits fits for less, too."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_frames(
    shape: Any, config: PruneVidConfig | None, prompt: PromptNumbers, free: int, bytes_each: int = 2, limit: int = 16384
) -> int:
    """Return how many frames of that size fit into so many free bytes beside the weights, at most ``limit``."""

    def fits(frames: int) -> bool:
        return bytes_needed(shape, config, replace(prompt, frames=frames), bytes_each) <= free

    return largest(fits, limit)


def largest_side(
    shape: Any, config: PruneVidConfig | None, prompt: PromptNumbers, free: int, bytes_each: int = 2, limit: int = 64
) -> tuple[int, int]:
    """Return the (rows, columns) of tokens that fit, of the prompt's own aspect, its frames unchanged."""

    def sides(number: int) -> tuple[int, int]:
        longest = max(prompt.rows, prompt.columns)
        return max(1, round(prompt.rows * number / longest)), max(1, round(prompt.columns * number / longest))

    def fits(number: int) -> bool:
        rows, columns = sides(number)
        return bytes_needed(shape, config, replace(prompt, rows=rows, columns=columns), bytes_each) <= free

    found = largest(fits, limit)
    return sides(found) if found else (0, 0)
