"""Qwen3-VL's way of writing a video into a prompt: the time of every temporal position, then its visual tokens."""

from __future__ import annotations

from functools import cache

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor

_START, _END = "<|vision_start|>", "<|vision_end|>"


class Qwen3Preprocessor(Preprocessor):
    """Builds the inputs of a Qwen3-VL: as those of Qwen2.5-VL, but for sizes, normalisation and what is said of time.

    The ids are those of the installed transformers' ``Qwen3VLProcessor`` with the metadata of the video.
    """

    settings = "qwen3"

    def _written_out(self, medium: Medium, text: str, start: int, stop: int) -> tuple[int, int, str]:
        if medium.kind == "image":
            return super()._written_out(medium, text, start, stop)
        steps, rows, columns = medium.grid[0].tolist()
        shown = _START + self.pads["video"] * (rows * columns // self.media.merge_size**2) + _END
        written = "".join(f"<{time:.1f} seconds>{shown}" for time in self._times(medium, steps))
        if _replaces_brackets() and text[:start].endswith(_START) and text[stop:].startswith(_END):
            start, stop = start - len(_START), stop + len(_END)
        return start, stop, written

    def _times(self, medium: Medium, steps: int) -> list[float]:
        """Return the seconds at the middle of each temporal position: of its first frame and of its last."""
        depth = self.media.video.temporal_patch_size
        times = medium.facts.get("timestamps")
        if times is None:  # made by hand, of frames that the caller spaced equally
            times = [frame * medium.seconds_per_grid / depth for frame in range(steps * depth)]
        times = [*times, *[times[-1]] * (-len(times) % depth)]
        if len(times) != steps * depth:
            raise ConfigError(
                f"a video of {steps} temporal positions has the times of {len(times)} frames: give the timestamps of "
                "every frame that was taken"
            )
        return [(times[at] + times[at + depth - 1]) / 2 for at in range(0, len(times), depth)]


@cache
def _replaces_brackets() -> bool:
    """Tell whether the installed processor takes away the brackets that the chat template writes around a video.

    It did so up to 5.6, as the checkpoints were published; since 5.10 they stand around the brackets of all positions.
    """
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    return not hasattr(Qwen3VLProcessor, "replace_video_token")
