"""MediaProcesses: decode what clients send in processes of their own, which are killed when they hang."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from prunevid_qwen.answers.session.video_cache import READING
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.inputs.qwen.feed import planner_of
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.inputs.qwen.pixel_options import PixelOptions
from prunevid_qwen.inputs.qwen.pixels import fitted_pixels
from prunevid_qwen.serve.limits import ServeLimits
from prunevid_qwen.serve.media_addresses import MediaContent
from prunevid_qwen.video.clip import Clip
from prunevid_qwen.vision.options import vision_options

_STARTING = 120.0
"""Seconds after which a process that has not begun is given up."""
_LINE = 2**24
"""Bytes of a line at most: the times of all frames stand there."""


class MediaProcesses:
    """Decodes images and videos; each process has one at a time, and the others wait.

    Args:
        frontend: of the model: who makes its pixels.
        limits: of media, and of time.
        count: of processes.
    """

    def __init__(self, frontend: Any, limits: ServeLimits, count: int = 2) -> None:
        own = getattr(frontend, "media", None)
        self.video: PixelOptions | None = None if own is None else own.video
        self._frontend, self._limits, self._count = frontend, limits, count
        self._free: asyncio.Queue[asyncio.subprocess.Process | None] = asyncio.Queue()
        self._all: set[asyncio.subprocess.Process] = set()
        self._folder: Path | None = None
        self.killed = 0
        """Processes that took too long, or died."""

    async def start(self) -> None:
        """Start the processes, so that the first request does not wait for one."""
        self._folder = Path(tempfile.mkdtemp(prefix="prunevid-serve-"))
        for each in await asyncio.gather(*(self._started() for _ in range(self._count))):
            self._free.put_nowait(each)

    async def stop(self) -> None:
        """End the processes, and delete what was sent."""
        for each in list(self._all):
            await self._end(each)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def read(self, content: MediaContent, config: PruneVidConfig) -> Any:
        """Return what a prompt can show: a `Medium`, a `Clip`, or a picture as the frontend reads it.

        Raises:
            MediaError: unreadable, above a limit, or not read in time.
            ConfigError: an option of its item.
        """
        assert self._folder is not None, "start() comes first"
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            paths = await asyncio.to_thread(_written, folder, content)
            head, frames = await self._asked(content, config, paths)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return await asyncio.to_thread(self._made, head, frames, content, config)

    def _made(self, head: dict[str, Any], frames: Any, content: MediaContent, config: PruneVidConfig) -> Any:
        facts = {**head["facts"], "source": f"{content.kind} {content.digest[:12]}"}
        if content.kind == "image":
            read = self._frontend.read_image(frames[0], config, **content.options)
            read.facts.update(source=facts["source"], warnings=facts.get("warnings", []))
            return read
        if self.video is None:
            return Clip(frames, tuple(head["indices"]), float(head["source_fps"]), facts)
        pixels, grid = fitted_pixels(frames, self.video)
        vision = vision_options(config.reading)
        encoded = planner_of(vision, self.video).plan(pixels, int(grid[0, 0])) if vision.reuses else None
        return Medium("video", pixels, grid, float(head["seconds_per_grid"]), facts, encoded, vision)

    async def _asked(
        self, content: MediaContent, config: PruneVidConfig, paths: list[str]
    ) -> tuple[dict[str, Any], Any]:
        flat, limits = config.flat(), self._limits
        job = {
            "kind": content.kind, "paths": paths, "listed": content.frames, "options": dict(content.options),
            "reading": {name: flat[name] for name in READING}, "pixels": limits.pixels,
            "seconds": limits.video_seconds, "frames": limits.frames, "tokens": limits.prompt_tokens,
            "video": None if self.video is None else dataclasses.asdict(self.video),
        }  # fmt: skip
        process = await self._free.get()
        try:
            if process is None or process.returncode is not None:
                process = await self._started()
            head, frames = await asyncio.wait_for(self._answer(process, job), limits.decode_seconds)
        except BaseException as error:
            if process is not None:
                await self._end(process)
                self.killed += 1
            self._free.put_nowait(None)  # the next one starts another
            if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
                raise MediaError(
                    f"the {content.kind} was not decoded within {limits.decode_seconds:g} s: send a smaller one"
                ) from None
            if isinstance(error, (EOFError, ConnectionError)):
                raise MediaError(f"the {content.kind} ended the process that decoded it: check the file") from None
            raise
        self._free.put_nowait(process)
        if "error" in head:
            raise (ConfigError if head["type"] in ("ConfigError", "UnknownOption") else MediaError)(head["error"])
        return head, frames

    async def _answer(self, process: asyncio.subprocess.Process, job: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(job).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise EOFError
        head = json.loads(line)
        if "error" in head:
            return head, None
        size = math.prod(head["shape"])
        if size > 3 * self._limits.frames * self._limits.pixels or len(head["shape"]) != 4:
            raise EOFError  # no answer of ours
        held = await process.stdout.readexactly(size)
        return head, np.frombuffer(held, np.uint8).reshape(head["shape"])

    async def _started(self) -> asyncio.subprocess.Process:
        sizes = str(self._limits.frames), str(self._limits.pixels)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "prunevid_qwen.serve.media_worker", *sizes,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE, start_new_session=True,
        )  # fmt: skip
        self._all.add(process)
        assert process.stdout is not None
        try:
            if not await asyncio.wait_for(process.stdout.readline(), _STARTING):
                raise EOFError("a process that decodes media did not start: see the lines above")
        except BaseException:
            await self._end(process)
            raise
        return process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._all.discard(process)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _written(folder: Path, content: MediaContent) -> list[str]:
    paths = []
    for number, each in enumerate(content.files):
        suffix = ".png" if content.frames else ""  # a frame of a list is told from a video by its name alone
        path = folder / f"{number:06}{suffix}"
        path.write_bytes(each)
        paths.append(str(path))
    return paths
