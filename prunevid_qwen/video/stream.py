"""The frames of a video in chunks: those that `read_video` takes, bit for bit, without all of them in memory."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, NoReturn

import numpy as np

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video.reader import OpenedVideo, ask, check_frames, choose, fetch, record
from prunevid_qwen.video.video_read import Deadline, Timeline, Video, about

_PIECE = 32  # frames of a damaged file that are held at once


class FramesChanged(Exception):
    """Some of the frames chosen did not decode, so that others are taken: what was handed out is void."""


class VideoStream:
    """The frames that `read_video` takes from a source, handed out in chunks.

    The first frame is decoded on opening. Where a frame turns out not to decode, `chunks` raises `FramesChanged`;
    the choice has then been made again as `read_video` makes it, and `chunks` starts anew with the right frames.

    Args:
        asked: what was opened.

    Raises:
        MediaError: as `read_video`.
    """

    def __init__(self, asked: OpenedVideo) -> None:
        self._asked = asked
        self._timeline = asked.timeline
        self._notes: list[str] = []
        self._changed = False
        self._whole: dict[int, np.ndarray] = {}  # frames of a backend that cannot be asked for single ones
        if getattr(asked.module, "CHOOSES_ITSELF", False):
            self._timeline, self._chosen, self._whole, self._notes = fetch(asked, asked.module.fetch)
            check_frames(asked.name, self._chosen.indices, set())
        else:
            self._chosen = choose(asked)
        self._size: tuple[int, int] = (0, 0)
        self._slots = self._in_slots()
        try:
            self._ready = [next(self._slots)]
        except FramesChanged:
            self._ready = [next(self._slots)]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame as shown."""
        return self._size

    @property
    def taken(self) -> int:
        """Frames that are taken of the source."""
        return len(self._chosen.indices)

    @property
    def count(self) -> int:
        """Frames in all, an even number: the last of an odd number is repeated."""
        return self.taken + self.taken % 2

    def chunks(self, frames: int) -> Iterator[np.ndarray]:
        """Hand out the frames from the beginning; may be called once, and once more after `FramesChanged`.

        The time limit does not run while a chunk is used.

        Args:
            frames: of a chunk; the last chunk may be shorter.

        Yields:
            uint8 RGB ``[n, H, W, 3]``.

        Raises:
            FramesChanged: begin again.
            MediaError: as `read_video`, and where a damaged file decodes to other frames each time.
        """
        held, self._ready = self._ready, []
        for pixels in self._slots:
            if len(held) == frames:
                out, held = np.stack(held), []
                with self._asked.deadline.paused():
                    yield out
                del out
            held.append(pixels)
        yield np.stack(held)

    def video(self) -> Video:
        """Say what was read, once all was handed out; its ``frames`` are left out: ``[0, H, W, 3]``."""
        notes = self._asked.images.said if self._asked.images else self._notes
        nothing = np.empty((0, *self._size, 3), dtype=np.uint8)
        return record(self._asked, self._timeline, self._chosen, nothing, [*self._timeline.notes, *notes])

    def close(self) -> None:
        """Let go of the file."""
        self._slots.close()

    def _in_slots(self) -> Generator[np.ndarray, None, None]:
        """Yield one frame for each entry of the choice, the padding too."""
        decoded = self._decoded()
        early: dict[int, np.ndarray] = {}  # damaged files decode out of order here and there
        last = -1
        for i in self._chosen.indices:
            if i != last:
                while i not in early:
                    got = next(decoded, None)
                    if got is None or len(early) == _PIECE:
                        self._change()
                    if got[0] >= i:
                        early[got[0]] = got[1]
                pixels = early.pop(i)
                size = pixels.shape[:2]
                self._size = size if last < 0 else self._size
                check_frames(self._asked.name, self._chosen.indices, {self._size, size})
                last = i
            yield pixels
        for _ in decoded:  # let it say what was wrong
            pass
        if len(self._chosen.indices) % 2:
            yield pixels

    def _decoded(self) -> Iterator[tuple[int, np.ndarray]]:
        asked, indices = self._asked, list(dict.fromkeys(self._chosen.indices))
        if self._whole:
            yield from ((i, self._whole[i]) for i in indices)
        elif asked.images:
            for i in indices:
                asked.deadline.check()
                yield i, asked.images.load(i)
        elif not self._changed or not self._looks_back(self._timeline):
            said: list[str] = []
            yield from asked.module.frames(asked.name, indices, self._timeline, asked.deadline, said)
            if not self._changed:
                self._notes = [about(asked.name, note) for note in said]
        else:  # what a seek passes over, `fetch` finds from the beginning of the file
            for at in range(0, len(indices), _PIECE):
                piece = indices[at : at + _PIECE]
                found, _ = asked.module.fetch(asked.name, piece, self._timeline, asked.deadline)
                yield from ((i, found[i]) for i in piece if i in found)

    def _change(self) -> NoReturn:
        asked = self._asked
        if asked.images or self._changed:
            raise MediaError(
                f"{asked.name} is damaged and does not decode to the same frames twice: pass a smaller max_frames, "
                "another video_backend, or a repaired copy"
            )
        self._timeline, self._chosen, _, self._notes = fetch(asked, self._which_decode)
        check_frames(asked.name, self._chosen.indices, set())
        self._changed = True
        self._slots = self._in_slots()
        raise FramesChanged

    def _looks_back(self, timeline: Timeline) -> bool:
        return bool(timeline.keys) and getattr(self._asked.module, "LOOKS_BACK", False)

    def _which_decode(
        self, path: str, indices: list[int], timeline: Timeline, deadline: Deadline
    ) -> tuple[dict[int, None], list[str]]:
        """Tell which frames decode, as the backend's ``fetch`` does, holding few of them at a time."""
        module, notes = self._asked.module, list[str]()
        if not self._looks_back(timeline):
            return dict.fromkeys(i for i, _ in module.frames(path, indices, timeline, deadline, notes)), notes
        found: dict[int, None] = {}
        for at in range(0, len(indices), _PIECE):
            some, said = module.fetch(path, indices[at : at + _PIECE], timeline, deadline)
            found.update(dict.fromkeys(some))
            notes += said
        return found, list(dict.fromkeys(notes))


def open_video(source: Any, **options: Any) -> VideoStream:
    """Open a video whose frames are taken in chunks; the arguments and errors are those of `read_video`."""
    return VideoStream(ask(source, **options))
