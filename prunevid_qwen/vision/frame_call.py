"""The videos whose features are asked for, and a call of their tower on some of their frames."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from torch import Tensor

from prunevid_qwen.adapters.seams import missing_seam
from prunevid_qwen.vision.frame_rows import FrameRows


@dataclass
class CarriedFrames:
    """What the next chunk of a video needs of the last encoded state of each place of a frame.

    Args:
        pixels: [L, C] of patches, as they were compared, or None where pixels leave nothing out.
        states: of each layer and module [P, C], CLS among them.
        early: [L, C] directions of the states after the early block that went on there, or None.
    """

    pixels: Tensor | None = None
    states: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    early: Tensor | None = None


@dataclass
class FrameCall:
    """One call of the tower on frames of videos."""

    rows: FrameRows
    begins: list[bool]  # of each frame: a video begins
    before: CarriedFrames | None
    after: CarriedFrames | None  # None where the last frame ends its video
    patches: Tensor  # [T, L] bool, on the CPU: those that run
    layers: Tensor  # [T, P] fp32, on the CPU: how many layers ran on each place so far

    def filled(self, number: int, name: str, rows: Tensor) -> Tensor:
        """Make whole frames of what a module of a layer made of rows."""
        key = number, name
        full = self.rows.filled(rows, None if self.before is None else self.before.states[key])
        if self.after is not None:
            self.after.states[key] = full[-1].clone()
        return full


class ShownVideos(threading.local):
    """The videos whose features are asked for, and the call of the tower under way; each thread has its own."""

    def __init__(self) -> None:
        self.videos: list[int] | None = None  # frames of each
        self.at = 0  # frames that the tower was given
        self.carried: CarriedFrames | None = None
        self.call: FrameCall | None = None

    def check_all(self) -> None:
        """Make sure that the tower was given all frames of the videos, or none of them.

        Raises:
            SetupError: some were left out, so nobody knows of which video the others are.
        """
        if self.at and self.at != sum(self.videos or ()):
            raise missing_seam("the vision encoder's call for videos", f"{sum(self.videos or ())} frames", [self.at])

    def edges(self, frames: int) -> tuple[list[bool], bool]:
        """Say of each of the next frames whether a video begins with it, and whether the last one's goes on."""
        assert self.videos is not None
        starts, done = set[int](), 0
        for each in self.videos:
            starts.add(done)
            done += each
        if self.at + frames > done:
            raise missing_seam("the vision encoder's call for videos", f"{done} frames", [self.at + frames])
        begins = [self.at + t in starts for t in range(frames)]
        self.at += frames
        return begins, self.at not in starts and self.at < done
