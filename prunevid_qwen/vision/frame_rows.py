"""Which patches of frames run through a tower, and their attention: queries of those, keys of each whole frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from prunevid_qwen.tokens.device import moved
from prunevid_qwen.vision.plan import sources

PARTS = 8  # of a frame: its queries are padded to whole parts, so a block has at most so many calls of attention


class FrameRows:
    """The rows of a tower that encodes some places of frames: all that layers are given, frame after frame.

    A place that is not encoded has the state of the last frame in which it was. Its keys and values are that state's,
    so the keys of a frame are always those of all its places.

    Args:
        encoded: [T, P] bool, on the CPU, of the places that are encoded; P counts the CLS token where there is one.
        carried: states from before the first frame are there for places that were not encoded yet.

    Raises:
        ValueError: a place has no state, because it was never encoded and none is carried.
    """

    def __init__(self, encoded: Tensor, carried: bool) -> None:
        frames, places = encoded.shape
        flat = encoded.flatten()
        rank = flat.long().cumsum(0) - 1
        source = sources(encoded)
        if not carried and bool((source < 0).any()):
            raise ValueError("the first frame of a video is encoded whole: nothing is there to copy")
        place = torch.arange(places, device="cpu")
        own = rank[source.clamp(min=0) * places + place] + (places if carried else 0)
        rows = flat.nonzero()[:, 0]
        self.encoded = encoded
        self.count = len(rows)
        self.whole = self.count == frames * places
        self._rows = rows
        self._state_of = torch.where(source >= 0, own, place)  # [T, P] among carried states and rows
        self._groups, self._back = _grouped(encoded)

    def _on(self, device: torch.device) -> None:
        """Have the indices where the layers run, which need not be where the pixels came."""
        if self._rows.device != device:
            self._rows, self._state_of, self._back = (
                moved(each, device) for each in (self._rows, self._state_of, self._back)
            )
            self._groups = [(moved(frames, device), moved(asking, device)) for frames, asking in self._groups]

    def taken(self, full: Tensor) -> Tensor:
        """Take the rows out of whole frames: [T, P, C] -> [1, R, C]."""
        self._on(full.device)
        return full.flatten(0, 1)[None] if self.whole else full.flatten(0, 1)[self._rows][None]

    def filled(self, rows: Tensor, before: Tensor | None) -> Tensor:
        """Make whole frames of rows and their copies: [1, R, C] -> [T, P, C].

        Args:
            rows: in the order of `taken`.
            before: [P, C] states from before the first frame, or None.
        """
        if self.whole:
            return rows[0].view(*self._state_of.shape, -1)
        self._on(rows.device)
        states = rows[0] if before is None else torch.cat((before.to(rows.device), rows[0]))
        return states[self._state_of]

    def attended(self, whole: Sequence[Tensor], heads: int, scale: float, dropout: float = 0.0) -> Tensor:
        """Let the rows attend to all places of their frame.

        Args:
            whole: queries, keys and values, each [T, P, C] of whole frames, as `filled` makes them.
            heads: among which C is shared out.
            scale: factor on the logits.
            dropout: share of the weights that are dropped.

        Returns:
            [1, R, C].
        """
        queries, keys, values = whole
        self._on(queries.device)

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [G, H, places, d]

        def attend(asking: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            q, k, v = (split(each) for each in (asking, keys, values))
            made = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
            return made.transpose(1, 2).flatten(2).flatten(0, 1)

        if self.whole:
            return attend(queries, keys, values)[None]
        places = queries.flatten(0, 1)
        out = [attend(places[asking], keys[frames], values[frames]) for frames, asking in self._groups]
        return torch.cat(out)[self._back][None] if out else queries.new_zeros(1, 0, queries.shape[-1])

    @property
    def pairs(self) -> int:
        """Query-key pairs of one block's attention, with those that only pad."""
        frames, places = self.encoded.shape
        if self.whole:
            return frames * places * places
        return sum(asking.numel() for _, asking in self._groups) * places


def _grouped(encoded: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Group frames by how many of their places are encoded, rounded up to whole parts of a frame.

    Returns:
        For each group its frames [G] and the places of its queries among all, [G, q]; and for each row where it stands
        in the groups' queries, one group after the other: [R].
    """
    places = encoded.shape[1]
    part = -(-places // PARTS)
    asking = [frame.nonzero()[:, 0] for frame in encoded]
    by: dict[int, list[int]] = {}
    for number, own in enumerate(asking):
        if len(own):
            by.setdefault(min(places, -(-len(own) // part) * part), []).append(number)
    groups, stands, done = [], dict[int, Tensor](), 0
    for size, frames in by.items():
        padded = torch.stack([F.pad(asking[t], (0, size - len(asking[t])), value=int(asking[t][0])) for t in frames])
        chosen = torch.tensor(frames, device="cpu")
        groups.append((chosen, padded + chosen[:, None] * places))
        for t in frames:
            stands[t] = torch.arange(done, done + len(asking[t]), device="cpu")
            done += size
    none = torch.zeros(0, dtype=torch.long, device="cpu")
    return groups, torch.cat([none, *(stands[t] for t in sorted(stands))])
