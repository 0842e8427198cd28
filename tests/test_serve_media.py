"""Media are decoded in processes that are killed when they hang; what is too large is refused by its header."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_qwen import get_config
from prunevid_qwen.bundled import source_of
from prunevid_qwen.errors import MediaError, PruneVidError
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.serve import media_worker
from prunevid_qwen.serve.limits import ServeLimits
from prunevid_qwen.serve.media_addresses import MediaContent
from prunevid_qwen.serve.media_processes import MediaProcesses
from tests.serving import CLIPS, NAMES

PAPER = get_config("paper")


@pytest.fixture(scope="module")
def frontend() -> Preprocessor:
    return Preprocessor.from_pretrained(source_of("bundled"), "qwen2_5_vl")


def content(name: str = NAMES[0], **options: Any) -> MediaContent:
    return MediaContent("video", ((CLIPS / name).read_bytes(),), options)


def job(path: Path, **more: Any) -> dict[str, Any]:
    flat = PAPER.flat()
    reading = {name: flat[name] for name in ("video_sampling", "max_frames", "fps")}
    return {"kind": "video", "paths": [str(path)], "listed": False, "options": {}, "reading": reading, "video": None,
            "pixels": 10**6, "seconds": 60, "frames": 64, "tokens": 10**5, **more}  # fmt: skip


def with_processes(frontend: Any, limits: ServeLimits, work: Callable[[MediaProcesses], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        processes = MediaProcesses(frontend, limits, 1)
        await processes.start()
        try:
            return await work(processes)
        finally:
            await processes.stop()

    return asyncio.run(whole())


def test_what_a_process_reads_is_what_the_frontend_reads(frontend: Preprocessor) -> None:
    async def work(processes: MediaProcesses) -> None:
        for name in NAMES:
            read = await processes.read(content(name, start=0.5), PAPER)
            own = frontend.media.read_video(str(CLIPS / name), PAPER, start=0.5)
            assert torch.equal(read.pixels, own.pixels) and torch.equal(read.grid, own.grid)
            assert read.seconds_per_grid == own.seconds_per_grid
            assert {**read.facts, "source": ""} == {**own.facts, "source": ""}
        picture = io.BytesIO()
        Image.new("RGB", (60, 50), "red").save(picture, "png")
        read = await processes.read(MediaContent("image", (picture.getvalue(),)), PAPER)
        own = frontend.read_image(np.array(Image.new("RGB", (60, 50), "red")), PAPER)
        assert torch.equal(read.pixels, own.pixels) and read.facts["size"] == [50, 60]
        # a file that is no video is refused, and the same process reads the next
        with pytest.raises(MediaError):
            await processes.read(MediaContent("video", (b"#EXTM3U\nfile:///etc/passwd\n",)), PAPER)
        with pytest.raises(PruneVidError):
            await processes.read(content(max_frames=65), PAPER)
        assert processes.killed == 0
        folder = processes._folder
        assert folder is not None and list(folder.iterdir()) == []  # nothing is left of what was sent

    with_processes(frontend, ServeLimits(frames=64), work)


HANGS = """
import json, sys, time
sys.stdout.write(json.dumps({"ready": 1}) + "\\n"); sys.stdout.flush()
line = sys.stdin.readline()
if {dies}: sys.exit(1)
time.sleep(3600)
"""


@pytest.mark.parametrize("dies", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_process_that_hangs_or_dies_is_replaced(
    frontend: Preprocessor, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    async def work(processes: MediaProcesses) -> None:
        with pytest.raises(MediaError):
            await processes.read(content(), PAPER)
        assert processes.killed == 1 and started[0].returncode is not None
        real["now"] = True
        processes._limits = ServeLimits()
        assert (await processes.read(content(), PAPER)).grid.tolist() == [[8, 8, 8]]

    real, start, started = {"now": False}, asyncio.create_subprocess_exec, list[asyncio.subprocess.Process]()

    async def other(program: str, *words: str, **more: Any) -> Any:
        code = HANGS.replace("{dies}", str(dies))
        started.append(await start(program, *(words if real["now"] else ("-c", code)), **more))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", other)
    with_processes(frontend, ServeLimits(decode_seconds=0.3), work)


def test_decompression_bombs_are_refused_by_their_headers(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    bomb = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
        + chunk(b"IEND", b"")
    )
    for each in ({"kind": "image"}, {"listed": True}, {}):
        with pytest.raises(MediaError):
            media_worker.read(job(bomb, **each))
    with pytest.raises(MediaError):
        media_worker.read(job(CLIPS / NAMES[0], pixels=224 * 224 - 1))


def test_long_videos_and_a_million_frames_are_refused_by_their_headers(tmp_path: Path) -> None:
    with pytest.raises(MediaError):
        media_worker.read(job(CLIPS / NAMES[0], seconds=2))
    held = bytearray((CLIPS / NAMES[0]).read_bytes())
    at = held.index(b"stts") + 12  # of the table of times: how many frames have which length
    struct.pack_into(">I", held, at, 10**6)
    lies = tmp_path / "lies.mp4"
    lies.write_bytes(held)
    try:
        _, frames = media_worker.read(job(lies))
        assert len(frames) <= 64
    except MediaError:
        pass
    with pytest.raises(MediaError):
        media_worker.read(job(CLIPS / NAMES[0], paths=[str(CLIPS / NAMES[0])] * 65, listed=True))


PLAYLISTS = (b"ffconcat version 1.0\nfile inner.mp4\n", b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n"
             b"#EXTINF:8,\ninner.mp4\n#EXT-X-ENDLIST\n")  # fmt: skip
OTHER_TEXTS = (b"<?xml version='1.0'?><MPD/>", b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", b"<svg xmlns='x'/>", b"",
               b"\x80\x04K\x01.")  # fmt: skip


@pytest.mark.parametrize("text", [*PLAYLISTS, *OTHER_TEXTS])
@pytest.mark.parametrize("name", ["clip", "clip.m3u8", "clip.ffconcat"])
def test_files_that_name_other_files_are_not_opened(tmp_path: Path, text: bytes, name: str) -> None:
    (tmp_path / "inner.mp4").write_bytes((CLIPS / NAMES[0]).read_bytes())
    path = tmp_path / name
    path.write_bytes(text)
    for kind in ("video", "image"):
        with pytest.raises(MediaError):
            media_worker.read(job(path, kind=kind))


def test_ffmpeg_would_open_them(tmp_path: Path) -> None:
    """What the check above is for."""
    import av

    (tmp_path / "inner.mp4").write_bytes((CLIPS / NAMES[0]).read_bytes())
    path = tmp_path / "clip"
    path.write_bytes(PLAYLISTS[0])
    with av.open(str(path)) as found:
        assert found.streams.video


def test_a_worker_says_what_is_wrong_in_json_and_goes_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"GIF89a")
    lines = b"".join(json.dumps(each).encode() + b"\n" for each in (job(broken), job(CLIPS / NAMES[0])))
    answers = io.BytesIO()
    media_worker.main(io.BytesIO(lines), answers)
    ready, wrong, rest = answers.getvalue().split(b"\n", 2)
    head, frames = rest.split(b"\n", 1)
    assert "ready" in json.loads(ready) and json.loads(wrong)["type"] == "MediaError"
    assert len(frames) == np.prod(json.loads(head)["shape"])


def test_nothing_that_comes_from_outside_is_unpickled() -> None:
    """Ray Serve carries our own objects between our own processes; the server itself has no such door."""
    import ast

    import prunevid_qwen.serve

    names = {"pickle", "cloudpickle", "marshal", "shelve", "dill", "eval", "exec", "load_pickle", "allow_pickle"}
    for path in Path(prunevid_qwen.serve.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = {alias.name for alias in getattr(node, "names", ()) if isinstance(alias, ast.alias)}
            found |= {getattr(node, "id", None), getattr(node, "arg", None), getattr(node, "module", None)}
            assert not found & names, (path.name, found & names)
