"""Evidence that is not layer M's own attention: a probe's, the vision tower's, the caller's; gathered if asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.prefill import Prefill
from prunevid_qwen.probe import ProbePass, check_probe
from prunevid_qwen.reducer import Needs
from prunevid_qwen.taps import Shown, tapped_vision


class Gathering:
    """Gathers for the stage 2 method of one context, and writes it into the rows of each prompt.

    Args:
        adapter: of the model.
        needs: what the method asks for.
        marks: what the caller says of the visual tokens of each prompt, [N] in [0, 1], None for a text; or None.

    Raises:
        ConfigError: the probe was made for a model of other sizes.
    """

    def __init__(self, adapter: Adapter, needs: Needs, marks: Sequence[Tensor | None] | None) -> None:
        if needs.probe is not None:
            check_probe(adapter, needs.probe)
        self.adapter, self.needs, self.marks = adapter, needs, marks
        self._shown = Shown()
        self._probe: ProbePass | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look into the vision tower inside the block, if that is asked for.

        Raises:
            ConfigError: the tower has other blocks than the method was made for.
        """
        with ExitStack() as stack:
            if self.needs.taps is not None:
                parts = self.adapter.parts
                stack.enter_context(tapped_vision(self.adapter, self.needs.taps))
                stack.enter_context(self._shown.watching(parts.root, parts.vision))
            yield

    @property
    def probed_layers(self) -> range:
        """The layers that the probe follows."""
        return range(0 if self.needs.probe is None else self.needs.probe.layers[-1] + 1)

    def forget(self) -> None:
        """Forget the prompt, and what was seen for it."""
        self._probe = None
        self._shown.clear()

    def before_stage1(self, state: Prefill) -> None:
        """Write taps and marks into the rows of a new prompt.

        Raises:
            UnsupportedError: the vision tower was not seen to encode what the prompt shows.
            ConfigError: marks are missing, or of another number of tokens than a prompt has.
        """
        if self.needs.taps is not None:
            for row, taps in zip(state.rows, self._shown.take([row.layout for row in state.rows]), strict=True):
                row.taps = taps
        if self.needs.marks:
            self._mark(state)

    def before_layers(self, state: Prefill, embeds: Tensor, positions: Tensor) -> None:
        """Send the probe on its way behind a prompt as stage 1 left it: [B, S, D] and its positions [3 or 4, B, S]."""
        if self.needs.probe is not None:
            self._probe = ProbePass(self.adapter, self.needs.probe, state, embeds, positions)

    def after_layer(self, layer: int, kwargs: dict[str, Any], device: torch.device) -> bool:
        """Take the probe through a layer that has just run on the prompt; say whether there was one."""
        if self._probe is None:
            return False
        self._probe.follow(layer, kwargs, device)
        return True

    def _mark(self, state: Prefill) -> None:
        rows, marks = state.rows, self.marks
        if not marks or len(rows) % len(marks):
            raise ConfigError(
                "the selector keeps what its caller marks: pass pruned(model, config, marks=[...]), one for each of "
                f"the {len(rows)} prompts of the batch; got {len(marks) if marks else 'none'}"
            )
        times = len(rows) // len(marks)  # beams and the like: each prompt so often in a row
        for number, row in enumerate(rows):
            given, wanted = marks[number // times], 0 if row.layout is None else row.layout.visual.numel()
            if wanted != (0 if given is None else given.numel()):
                raise ConfigError(
                    f"prompt {number // times} has {wanted} visual tokens, its marks are "
                    f"{'none' if given is None else list(given.shape)}: give one number in [0, 1] for each token"
                )
            row.marks = given.flatten().float() if given is not None and wanted else None
