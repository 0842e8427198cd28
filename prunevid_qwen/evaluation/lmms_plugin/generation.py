"""A task's ``generation_kwargs`` as arguments of transformers' ``generate``; what cannot be honoured is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.config.option_checks import check_count, is_number, unknown
from prunevid_qwen.errors import ConfigError, quoted

LONGEST = 128
"""New tokens where neither task nor model arguments say how many: what lmms-eval's own Qwen2.5-VL takes."""

_KNOWN = (
    "until", "stop_sequences", "max_new_tokens", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k",
    "num_beams", "repetition_penalty",
)  # fmt: skip
# These say nothing to us, or say what is done anyway.
_ONE_VALUE = {"n": 1, "best_of": 1, "num_return_sequences": 1, "skip_special_tokens": True, "use_cache": True}
_OTHERS = ("image_aspect_ratio",)  # how LLaVA cuts an image; Qwen2.5-VL takes any aspect as it is


@dataclass(frozen=True)
class Generation:
    """How an answer is made.

    Args:
        arguments: of ``generate``, by name, sorted.
        until: texts before which an answer ends.
    """

    arguments: tuple[tuple[str, Any], ...]
    until: tuple[str, ...] = ()

    def cut(self, text: str) -> str:
        """Return what stands before the first of the texts at which an answer ends."""
        return text[: min((at for stop in self.until if (at := text.find(stop)) >= 0), default=None)]


def read_generation(given: Mapping[str, Any] | None, max_new_tokens: int | None = None) -> Generation:
    """Read a task's generation arguments.

    A temperature above 0 samples, unless ``do_sample`` is false; a temperature of 0 is greedy whatever ``do_sample``
    says, as in lmms-eval's own models.

    Args:
        given: of one request.
        max_new_tokens: over the task's, or None.

    Raises:
        ConfigError: a name or value that cannot be honoured.
    """
    given = {name: value for name, value in (given or {}).items() if name not in _OTHERS}
    for name, value in given.items():
        if name in _ONE_VALUE:
            if value is not None and value != _ONE_VALUE[name]:
                raise ConfigError(f"generation argument {name} is {_ONE_VALUE[name]!r} here, got {quoted(value)}")
        elif name not in _KNOWN:
            raise ConfigError(unknown("prunevid_qwen honours the generation arguments", name, _KNOWN))
    longest = max_new_tokens or given.get("max_new_tokens") or given.get("max_gen_toks") or LONGEST
    check_count("max_new_tokens", longest, 1)
    beams = given.get("num_beams") or 1
    check_count("num_beams", beams, 1)
    arguments = {"max_new_tokens": longest, "num_beams": beams, **_sampling(given)}
    if given.get("repetition_penalty") is not None:
        arguments["repetition_penalty"] = float(given["repetition_penalty"])
    stops = [*_stops(given.get("until")), *_stops(given.get("stop_sequences"))]
    return Generation(tuple(sorted(arguments.items())), tuple(dict.fromkeys(stops)))


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    warmth, asked = given.get("temperature"), given.get("do_sample")
    if warmth is not None and (not is_number(warmth) or warmth < 0):
        raise ConfigError(f"temperature is a number of at least 0, got {quoted(warmth)}")
    if asked is False or warmth == 0 or (asked is None and warmth is None):
        return {"do_sample": False}
    chosen = {"do_sample": True, "temperature": 1.0 if warmth is None else float(warmth)}
    return chosen | {name: given[name] for name in ("top_p", "top_k") if given.get(name) is not None}


def _stops(until: Any) -> list[str]:
    stops = [until] if isinstance(until, str) else list(until or ())
    if not all(isinstance(stop, str) for stop in stops):
        raise ConfigError(f"until is a text or a list of texts, got {quoted(until)}")
    return [stop for stop in stops if stop]
