"""One video as it was read: its frames with their own size, and when each is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from prunevid_qwen.video.reader import read_video


@dataclass(frozen=True, eq=False)
class Clip:
    """The frames of a video as they were read, for a model that takes single frames.

    Args:
        frames: uint8 RGB [T, H, W, 3]; T may be odd.
        indices: position of each frame in the source, counted from 0.
        source_fps: mean frames a second of the source.
        facts: what a receipt says of it. Whoever resizes the frames adds the size that they got.
    """

    kind: ClassVar[str] = "video"

    frames: np.ndarray
    indices: tuple[int, ...]
    source_fps: float
    facts: dict[str, Any]

    @classmethod
    def of(cls, source: Any, **options: Any) -> Clip:
        """Read a video; arguments and errors are those of `read_video`."""
        video = read_video(source, **options)
        count = len(video.timestamps)
        facts = {
            "source": video.source,
            "backend": video.backend,
            "frames": count,
            "padded": 0,
            "timestamps": list(video.timestamps),
            "seconds_per_grid": video.seconds_per_grid / 2,  # a temporal position is one frame
            "duration": video.duration,
            "size": list(video.size),
            "warnings": list(video.warnings),
        }
        return cls(video.frames[:count], video.indices, video.source_fps, facts)

    @property
    def metadata(self) -> dict[str, Any]:
        """What transformers' ``VideoMetadata`` is made of: which frames these are, of a source of how many."""
        height, width = self.facts["size"]
        total = max(round(self.facts["duration"] * self.source_fps), self.indices[-1] + 1)
        return {
            "total_num_frames": total, "fps": self.source_fps, "width": width, "height": height,
            "duration": self.facts["duration"], "video_backend": None, "frames_indices": list(self.indices),
        }  # fmt: skip

    def close(self) -> None:
        """Nothing is open any more."""
