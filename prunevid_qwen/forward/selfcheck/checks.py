"""The self-check on a tiny model: keep-everything equals stock, pruning equals masking, counts are as asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter, adapter_for, seams
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.adapters.tiny import FAMILIES, tiny_inputs, tiny_model
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.forward.selfcheck.aside import aside
from prunevid_qwen.forward.selfcheck.masked_forward import decoder_inputs, masked_logits, units_apart
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.stage3_kv.cache import size_of
from prunevid_qwen.tokens.trace import Trace

Attach = Callable[[Adapter, PruneVidConfig | Plan], AbstractContextManager[Trace]]
"""`hooks.attached`: prunes every prompt of the adapter's model inside the block, and asks no canary."""

Measured = dict[str, Any]

LAYERS, LAYER, STEPS = 3, 1, 2
HALF: dict[str, Any] = {
    "pruning_layer": LAYER, "tau": 1.0, "cluster_ratio": 0.5, "min_cluster_tokens": 0, "keep_ratio": 0.5
}  # fmt: skip
TWO_CUTS = "two cuts"  # one more before that of stage 2, so that each layer sees tokens of its own
STAGES: dict[str, dict[str, Any]] = {
    "all stages": {},
    "stages 1 and 2": {"enable_cache_compression": False},
    "stages 2 and 3": {"enable_stage1": False},
    "stage 1": {"enable_stage2": False, "enable_cache_compression": False},
    TWO_CUTS: {"enable_cache_compression": False},
}
KEEP: dict[str, Any] = {"cluster_ratio": 1.0, "keep_ratio": 1.0, "position_scheme": "hf"}

# The models are fp64, so that no setting of the caller's makes their products coarser, but the library's norms and
# rotary angles are fp32. Right code stays below 8 units; one token seen too many moves logits by a million.
UNITS = 256


@dataclass(frozen=True)
class Check:
    """One thing that was compared.

    Args:
        name: which, with the attention implementation of the model.
        ok: whether it holds.
        figures: what was compared; for numbers the difference and the most that is allowed, in units in the last place
            of the largest number compared, as fp32 has them.
        seconds: it took.
        error: what was raised instead of a comparison, if anything was.
    """

    name: str
    ok: bool
    figures: Measured = field(default_factory=dict)
    seconds: float = 0.0
    error: Exception | None = None

    @property
    def seen(self) -> str:
        """What was compared or raised, in one line."""
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        return ", ".join(
            f"{what} {value:.4g}" if isinstance(value, float) else f"{what} {value}"
            for what, value in self.figures.items()
        )

    def __str__(self) -> str:
        """Name the check and say what was seen, in one line."""
        return f"{self.name}: {self.seen}"


@dataclass(frozen=True)
class SelfCheck:
    """What the self-check of one family found.

    Args:
        family: ``model_type`` of the tiny model.
        transformers: the installed release.
        torch: the installed release.
        checks: in the order in which they ran.
    """

    family: str
    transformers: str
    torch: str
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """What does not hold."""
        return tuple(check for check in self.checks if not check.ok)

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return bool(self.checks) and not self.failed

    @property
    def seconds(self) -> float:
        """What all checks took."""
        return sum(check.seconds for check in self.checks)


def attentions() -> tuple[str, ...]:
    """List the attention implementations that a CPU can run here: without a kernel for it, "sdpa" is left out."""
    kernels = torch.backends.cuda
    has_sdpa = kernels.math_sdp_enabled() or kernels.flash_sdp_enabled()  # switches of the CPU's too
    return ("eager", "sdpa") if has_sdpa else ("eager",)


def self_check(family: str, attach: Attach) -> SelfCheck:
    """Check that pruning works with the installed transformers; always runs, and leaves everything as found.

    What goes wrong is in what it returns, whatever it is: only an interrupt is raised.

    Args:
        family: a ``model_type`` that pruning knows.
        attach: `hooks.attached`.
    """
    checks = aside(lambda: [check for kind in attentions() for check in _of_one(family, kind, attach)])
    return SelfCheck(family, seams.transformers_release(), str(torch.__version__), tuple(checks))


def _of_one(family: str, attention: str, attach: Attach) -> Iterator[Check]:
    subject = _Subject(family, attention, attach)
    first = _judged(f"stock model, {attention}", subject.make)
    yield first
    if not first.ok:  # then nothing can be said of pruning it
        return
    yield _judged(f"keep everything, {attention}", subject.keeps_everything)
    yield _judged(f"forward without generate, {attention}", subject.forwards)
    for stages in STAGES:
        if stages == TWO_CUTS and LAYER - 1 not in subject.adapter.attending:  # linear attention cannot be cut there
            continue
        yield _judged(f"{stages} equal masking, {attention}", partial(subject.equals_masking, stages))
        yield _judged(f"counts of {stages}, {attention}", partial(subject.counts, stages))


def _judged(name: str, body: Callable[[], tuple[bool, Measured]]) -> Check:
    start = time.perf_counter()
    try:
        ok, figures = body()
    except Exception as error:
        # Any exception at all: on a release that nobody tested a moved seam shows as a KeyError, a TypeError, an error
        # of the library's own or one of ours, and each of them is the finding that was asked for.
        return Check(name, False, {}, time.perf_counter() - start, error)
    return Check(name, ok, figures, time.perf_counter() - start)


class _Subject:
    """A tiny model with one attention implementation, and what was made of it so far."""

    def __init__(self, family: str, attention: str, attach: Attach) -> None:
        self.family, self.attention, self.attach, self.case = family, attention, attach, FAMILIES[family].shown
        self.made: dict[str, tuple[Any, Trace]] = {}  # by stages

    def make(self) -> tuple[bool, Measured]:
        """Build the model and have it answer without us."""
        self.model = tiny_model(self.family, LAYERS, self.attention, torch.float64)
        self.adapter = adapter_for(self.model)
        # The library's eager attention, whose softmax is fp32, makes NaN of a padding row of fp64: one row, no padding.
        self.rows = range(1 if self.attention == "eager" else len(self.case.rows))
        self.inputs = tiny_inputs([self.case.rows[b] for b in self.rows], family=self.family)
        self.stock = self._generate()
        new = self.stock.sequences.shape[1] - self.inputs["input_ids"].shape[1]
        return new == STEPS + 1, {"tokens made": new, "asked": STEPS + 1}

    def keeps_everything(self) -> tuple[bool, Measured]:
        """With every stage on and nothing to drop, logits are the stock model's, bit for bit."""
        with self.attach(self.adapter, self._config("all stages", **KEEP)) as trace:
            ours = self._generate()
        got, stock = _logits(ours), _logits(self.stock)
        kept = [row.after_stage2 if row.merged is not None and row.kept is not None else None for row in trace.samples]
        apart, allowed = units_apart(got, stock), 0
        if apart and not torch.equal(_logits(self._generate()), stock):
            allowed = UNITS  # this machine's stock model does not repeat itself to the bit: nor can ours
        figures: Measured = {
            "units in the last place": apart,
            "allowed": allowed,
            "tokens kept by both stages": kept,
        }
        return apart <= allowed and kept == [sum(self.case.tokens[b]) for b in self.rows], figures

    def forwards(self) -> tuple[bool, Measured]:
        """A plain forward, as in hand-written loops, gives what `generate` gives."""
        with self.attach(self.adapter, self._config("all stages")), torch.no_grad():
            got = self.model(**self.inputs).logits[:, -1]
        return _within(got, _logits(self._pruned("all stages")[0])[:, 0])

    def equals_masking(self, stages: str) -> tuple[bool, Measured]:
        """Logits after the prompt and in the decode steps are those of the stock model with the dropped masked."""
        out, trace = self._pruned(stages)
        wanted = []
        with torch.no_grad():
            embeds = decoder_inputs(self.model, self.adapter, self.inputs)
            positions, _ = self.adapter.reference_positions(**self.inputs)
            positions = positions if self.adapter.spatial else positions[None]
            for b, row in enumerate(trace.samples):
                at = self.inputs["attention_mask"][b].nonzero()[:, 0]
                prompt = (self.inputs["input_ids"][b, at], embeds[:, b, at], positions[:, b, at])
                new = out.sequences[b, -STEPS - 1 : -1]
                compress = self._config(stages).enable_cache_compression
                wanted.append(masked_logits(self.model, self.adapter, prompt, new, row, compress))
        return _within(_logits(out), torch.stack(wanted))

    def counts(self, stages: str) -> tuple[bool, Measured]:
        """As many tokens as asked after each stage, and as many entries in each layer's cache after decoding."""
        out, trace = self._pruned(stages)
        config, case = self._config(stages), self.case
        first = [list(case.merged[b] if config.enable_stage1 else case.tokens[b]) for b in self.rows]
        between = [[n // 2 if stages == TWO_CUTS else n for n in row] for row in first]
        second = [[n // 2 if config.enable_stage2 else n for n in row] for row in between]
        seen = [second] * LAYERS if config.enable_cache_compression else [first, between, second]
        asked = {
            "stage 1": [sum(row) for row in first],
            "stage 2": [sum(row) for row in second],
            "cache": [
                max(case.text[b] + sum(rows[b]) for b in self.rows) + STEPS if i in self.adapter.attending else 0
                for i, rows in enumerate(seen)
            ],
        }
        got = {
            "stage 1": [row.after_stage1 for row in trace.samples],
            "stage 2": [row.after_stage2 for row in trace.samples],
            "cache": list(size_of(cache_of(out))[0]),
        }
        return got == asked, {"got": got, "asked": asked}

    def _pruned(self, stages: str) -> tuple[Any, Trace]:
        if stages not in self.made:
            plan = compile_plan(self._config(stages), LAYERS)
            if stages == TWO_CUTS:
                plan = replace(plan, steps=(*plan.steps[:1], Step(LAYER - 1, Uniform(0.5)), *plan.steps[1:]))
            with self.attach(self.adapter, plan) as trace:
                self.made[stages] = (self._generate(), trace)
        return self.made[stages]

    def _config(self, stages: str, **more: Any) -> PruneVidConfig:
        return PruneVidConfig(**{**HALF, **self.case.options, **STAGES[stages], **more})

    def _generate(self) -> Any:
        return self.model.generate(
            **self.inputs, max_new_tokens=STEPS + 1, do_sample=False, return_dict_in_generate=True, output_logits=True
        )


def _logits(out: Any) -> Tensor:
    return torch.stack(out.logits, dim=1)  # [B, 1 + STEPS, vocabulary]


def _within(got: Tensor, wanted: Tensor) -> tuple[bool, Measured]:
    apart = units_apart(got.double(), wanted.double())
    return apart <= UNITS, {"units in the last place": apart, "allowed": UNITS}
