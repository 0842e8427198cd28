"""Evidence that is not a layer's own attention: a probe's, the vision tower's, the caller's; gathered if asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.vision import source_of
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.prefill import Prefill
from prunevid_qwen.forward.probe import ProbePass, check_probe
from prunevid_qwen.forward.vision_evidence import VisionEvidence, watched_vision
from prunevid_qwen.reducer import Needs
from prunevid_qwen.vision.frame_reuse import FrameReuse
from prunevid_qwen.vision.frame_sources import token_sources
from prunevid_qwen.vision.tower import Reuse


class _UnderWay(threading.local):
    probe: ProbePass | None = None  # of each thread's own forward


class EvidenceCollector:
    """Gathers for the steps between the layers of one context, and writes it into the rows of each prompt.

    Args:
        adapter: of the model.
        needs: what the steps ask for.
        marks: what the caller says of the visual tokens of each prompt, [N] in [0, 1], None for a text; or None.
        reuse: lets places of videos be copies; or None.
        copies: the tower may say which tokens are copies, which the rows are told.

    Raises:
        ConfigError: the probe was made for a model of other sizes, or marks are no numbers in [0, 1].
    """

    def __init__(
        self, adapter: Adapter, needs: Needs, marks: Sequence[Tensor | None] | None,
        reuse: Reuse | FrameReuse | None = None, copies: bool = False,
    ) -> None:  # fmt: skip
        if needs.probe is not None:
            check_probe(adapter, needs.probe)
        self.adapter, self.needs = adapter, needs
        self.marks = _numbers(marks) if needs.marks and marks is not None else []
        self._reuse, self._copies = reuse, copies
        self._shown = VisionEvidence()
        self._copied = VisionEvidence(source_of, "_prunevid_source")
        self._here = _UnderWay()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look into the vision tower inside the block, if that is asked for.

        Raises:
            ConfigError: the tower has other blocks than the method was made for.
        """
        with ExitStack() as stack:
            if self.needs.vision is not None:
                spread = None if self._reuse is None else self._reuse.tapped
                stack.enter_context(watched_vision(self.adapter, self.needs.vision, spread))
                stack.enter_context(self._shown.watching(self.adapter))
            if self._copies:
                stack.enter_context(self._copied.watching(self.adapter))
            yield

    @property
    def probed_layers(self) -> range:
        """The layers that the probe follows."""
        return range(0 if self.needs.probe is None else self.needs.probe.layers[-1] + 1)

    def begin(self, ahead: Mapping[str, Any] | None) -> None:
        """Begin a forward of the model, which may bring features along that were asked for before, by kind."""
        self._shown.begin(ahead)
        self._copied.begin(ahead)

    def forget(self) -> None:
        """Forget the prompt, and what was seen for it."""
        self._here.probe = None
        self._shown.clear()
        self._copied.clear()

    def before_stage1(self, state: Prefill, ids: Tensor) -> None:
        """Write taps and marks into the rows of a new prompt.

        Args:
            state: of the prompt.
            ids: [B, S] its token ids, on the CPU.

        Raises:
            UnsupportedError: the vision tower was not seen to encode what the prompt shows.
            ConfigError: marks are missing, or of another number of tokens than a prompt has.
        """
        if self.needs.vision is not None:
            for row, taps in zip(state.rows, self._shown.take([row.layout for row in state.rows]), strict=True):
                row.taps = taps
        if self._copies:
            layouts = [row.layout for row in state.rows]
            for row, source in zip(state.rows, self._copied.take(layouts, known=False), strict=True):
                row.source = source
                if source is not None and row.layout is not None and source.is_floating_point():  # of patches
                    row.source = token_sources(row.layout, source)
        if self.needs.marks:
            self._mark(state, ids)

    def before_layers(self, state: Prefill, embeds: Tensor, positions: Tensor) -> None:
        """Send the probe on its way behind a prompt as stage 1 left it: [B, S, D] and its positions [3 or 4, B, S]."""
        if self.needs.probe is not None:
            self._here.probe = ProbePass(self.adapter, self.needs.probe, state, embeds, positions)

    def after_layer(self, layer: int, kwargs: dict[str, Any], device: torch.device) -> bool:
        """Take the probe through a layer that has just run on the prompt; say whether there was one."""
        probe = self._here.probe
        if probe is None:
            return False
        probe.follow(layer, kwargs, device)
        if layer == self.probed_layers[-1]:  # it holds on to the prompt's cache
            self._here.probe = None
        return True

    def _mark(self, state: Prefill, ids: Tensor) -> None:
        rows, marks = state.rows, self.marks
        times = len(rows) // len(marks) if marks else 0  # beams and the like: each prompt so often in a row
        fits = times and len(rows) == times * len(marks)
        if not fits or any(n % times and not torch.equal(ids[n], ids[n - 1]) for n in range(len(rows))):
            raise ConfigError(
                "the method reads marks of the tokens: pass pruned(model, config, marks=[...]) with one entry for each "
                f"of the {len(rows)} prompts; got {len(marks) if marks else 'none'}"
            )
        for number, row in enumerate(rows):
            given, wanted = marks[number // times], 0 if row.layout is None else row.layout.visual.numel()
            if wanted != (0 if given is None else given.numel()):
                raise ConfigError(
                    f"prompt {number // times} has {wanted} visual tokens, but its marks are "
                    f"{'None' if given is None else list(given.shape)}: give one number in [0, 1] for each token"
                )
            row.marks = given if wanted else None


def _numbers(marks: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Flatten the marks of each prompt to [N] fp32."""
    try:
        out = [None if each is None else torch.as_tensor(each, dtype=torch.float32).flatten() for each in marks]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"marks are a list with a tensor [N] (or None) for each prompt: {error}") from error
    for number, each in enumerate(out):
        if each is not None and not bool(((each >= 0) & (each <= 1)).all()):
            raise ConfigError(f"marks of prompt {number} lie outside [0, 1]: give one number in [0, 1] for each token")
    return out
