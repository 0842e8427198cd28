"""One call of the stock tower on some positions of one video, of which some units are encoded and the others copies.

The tower's own forward runs, and with it all that a release of the library does around the blocks. Modules inside it
have stand-ins, which ask the pass that is under way in their thread: fewer rows come out of the embedding, go through
the blocks, and the mergers' outputs are spread over all units again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.tower_form import TowerForm
from prunevid_qwen.vision.carried import Carried, State
from prunevid_qwen.vision.lending import keys_and_values, lent_attention
from prunevid_qwen.vision.unit_rows import UnitRows, of_patches

Rope = tuple[Tensor, Tensor]


class Pass:
    """What the stand-ins ask for while the tower runs.

    Args:
        form: of the tower.
        video: whose positions these are.
        grid: (T, h, w) in units.
        encoded: [T, L] bool on the CPU.
        more: positions may follow: note what they may copy.
        early: index of the early block and its threshold, or None.
    """

    def __init__(
        self, form: TowerForm, video: Carried, grid: tuple[int, int, int], encoded: Tensor, more: bool,
        early: tuple[int, float] | None,
    ) -> None:  # fmt: skip
        self.form, self.more, self.early = form, more, early
        self.first, self.before = video.positions, video.state
        if self.before is None and not bool(encoded[0].all()):  # planned for positions that never came
            encoded = encoded.clone()
            encoded[0] = True
        self.rows = UnitRows(encoded, grid, form.side, form.unit, self.before is not None)
        self.entered = self.rows.encoded
        self.after = State()
        self._rope: Rope | None = None

    # ---- what stands in

    def embed(self, stock: Any, pixels: Tensor) -> Tensor:
        """Embed the pixels [patches, C] of encoded units alone; [patches, width], zeros where others stand."""
        if self.rows.whole:
            return stock(pixels)  # type: ignore[no-any-return]
        kind = next(self.form.embed.parameters()).dtype
        out = torch.zeros(len(pixels), self.form.width, dtype=kind, device=pixels.device)
        if len(self.rows.number):
            at = self.rows.patches("number", pixels.device)
            out[at] = stock(pixels[at])
        return out

    def enter(self, hidden: Tensor) -> Tensor:
        """Pick of the states of all patches, as they come to the first block, those of encoded units."""
        return hidden if self.rows.whole else hidden[self.rows.patches("at_tower", hidden.device)]

    def rope(self, given: Rope) -> Rope:
        """Pick the rotary angles of the rows: cosines and sines, of all patches as the tower hands them to a block."""
        if self.rows.whole:
            return given
        device = given[0].device
        if self._rope is None or self._rope[0].device != device:
            at = self.rows.patches("at_tower", device)
            self._rope = given[0][at], given[1][at]
        return self._rope

    def attend(self, block: int, attn: Any, stock: Any, hidden: Tensor, rope: Rope, rest: dict[str, Any]) -> Tensor:
        """Run the attention of a block on the rows, [rows, C]: the stock one where each unit is a row."""
        rows, device = self.rows, hidden.device
        if rows.whole:
            if self.more:  # ahead of the stock call: hooks on the projections see that one last
                at = of_patches(rows.last - self._ahead, rows.unit).to(device)
                self.after.lent[block] = keys_and_values(attn, hidden[at], (rope[0][at], rope[1][at]))
            return stock(hidden, **rest)  # type: ignore[no-any-return]
        before = None if self.before is None else self.before.lent[block]
        full = self.form.side is None or block in self.form.full
        out, pool = lent_attention(attn, hidden, rope, rows.batches(full, device), before)
        if self.more:
            at = rows.patches("last", device)
            self.after.lent[block] = pool[0][at], pool[1][at]
        return out

    def leave(self, block: int, out: Tensor) -> Tensor:
        """Let rows that hardly differ from what went on at their place go no further, behind the early block."""
        if self.early is None or block != self.early[0]:
            return out
        gone = self._alike(out.detach(), self.early[1])
        stays = of_patches((~gone).nonzero()[:, 0], self.rows.unit).to(out.device)
        self.rows, self._rope = self.rows.without(gone), None
        return out[stays]

    def spread(self, key: int | tuple[int, str], made: Tensor) -> Tensor:
        """Spread what was made of the rows over all units, in the tower's order; and note what the next may copy.

        Args:
            key: a merger's number, or a block and a kind of tap.
            made: [n, ...] of the units that are rows.
        """
        held: Any = None if self.before is None else self.before.tokens if isinstance(key, int) else self.before.taps
        pool = made if held is None else torch.cat([held[key], made])
        if self.more:
            noted: Any = self.after.tokens if isinstance(key, int) else self.after.taps
            noted[key] = pool[self.rows.units("last", pool.device)]
        return pool[self.rows.units("spread", pool.device)]

    # ---- what comes out

    def source(self) -> Tensor:
        """Return the source of each unit, see `source_of`: [N, 2] int64."""
        cells = self.rows.source.shape[1]
        number = self.rows.source + self.first * cells
        if self.before is not None:
            assert self.before.number is not None
            number = torch.where(self.rows.source < 0, self.before.number, number)
        self.after.number = number[-1].clone()
        ran = self.rows.encoded.long() * len(self.form.blocks)
        if self.early is not None:
            ran[self.entered & ~self.rows.encoded] = self.early[0] + 1
        return torch.stack([number.flatten(), ran.flatten()], dim=1)

    def close(self, video: Carried) -> None:
        """Hand the video what its next positions may copy."""
        video.state = self.after if self.more else None

    @property
    def _ahead(self) -> int:
        return self.rows.source.shape[1] if self.rows.carried else 0

    def _alike(self, states: Tensor, tau: float) -> Tensor:
        """Tell which rows are alike to what was last kept at their place, [n] bool on the CPU: one host wait."""
        unit, place = self.rows.unit, self.rows.units("place", states.device)
        cells, width = self.rows.source.shape[1], unit * states.shape[1]
        held = None if self.before is None else self.before.early
        last = torch.zeros(cells, width, device=states.device) if held is None else held.clone()
        alike = [torch.zeros(0, dtype=torch.bool, device=states.device)]
        at = 0
        for size in self.rows.sizes:
            own = torch.nn.functional.normalize(
                states[at * unit : (at + size) * unit].reshape(size, width).float(), dim=1
            )
            here = place[at : at + size]
            gone = (own * last[here]).sum(1).clamp(max=1.0) > tau
            last[here] = torch.where(gone[:, None], last[here], own)
            alike.append(gone)
            at += size
        self.after.early = last
        return torch.cat(alike).cpu()
