"""ServeLimits: how much one request, and all of them, may take."""

from __future__ import annotations

from dataclasses import dataclass

from prunevid_qwen.config.option_checks import check_count, is_number
from prunevid_qwen.errors import ConfigError

_SECONDS = ("request_seconds", "body_seconds", "decode_seconds")


@dataclass(frozen=True)
class ServeLimits:
    """How much is taken.

    Args:
        body_megabytes: of a request.
        media_megabytes: of one file that it shows.
        waiting_megabytes: of all requests inside together, and of the decoded media that wait for the model.
        video_seconds: of one video.
        frames: that are taken of a video at most, whatever a request asks for.
        pixels: of a frame or an image, as the file has them.
        media: images and videos in one request.
        prompt_tokens: before pruning, text included.
        answer_tokens: of one answer.
        answers: of one request, its ``n``.
        batch: requests that are answered at once.
        waiting: requests that may wait; more are refused at once.
        wait_ms: that a batch which is not full waits for more, in milliseconds.
        request_seconds: from the first byte of a request to the last of its answer.
        body_seconds: until the body of a request is there.
        decode_seconds: of one image or video; its process is killed then.

    Raises:
        ConfigError: a limit that is no number above 0 (``waiting`` and ``wait_ms``: of at least 0).
    """

    body_megabytes: int = 64
    media_megabytes: int = 48
    waiting_megabytes: int = 2048
    video_seconds: int = 3600
    frames: int = 256
    pixels: int = 3840 * 2160
    media: int = 16
    prompt_tokens: int = 131072
    answer_tokens: int = 1024
    answers: int = 8
    batch: int = 8
    waiting: int = 64
    wait_ms: int = 5
    request_seconds: float = 300.0
    body_seconds: float = 30.0
    decode_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in _SECONDS:
                if not is_number(value) or not value > 0:
                    raise ConfigError(f"{name} is a number of seconds above 0, got {value!r}")
            else:
                check_count(name, value, 0 if name in ("waiting", "wait_ms") else 1)

    @property
    def places(self) -> int:
        """Requests that are inside at once: those that are answered, and those that wait."""
        return self.batch + self.waiting
