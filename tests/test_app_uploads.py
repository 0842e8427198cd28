"""What the page of `prunevid app` may open: uploads within limits, and nothing else that a browser names."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunevid_qwen.app.addresses import MOST_BYTES, UploadsAlone
from prunevid_qwen.app.uploads import CLIPS, UploadLimits, check_image, check_video, example_clips, uploaded
from prunevid_qwen.errors import ConfigError, MediaError

CLIP = CLIPS / "late_square.mp4"  # 8 s


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "uploads"
    made.mkdir()
    (made / "a.mp4").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"s")
    (made / "out").symlink_to(tmp_path / "secret")
    (made / "inner").mkdir()
    return made


def test_an_upload_is_found(folder: Path) -> None:
    assert uploaded(str(folder / "a.mp4"), folder) == folder / "a.mp4"
    assert uploaded(str(folder / "inner" / ".." / "a.mp4"), folder) == folder / "a.mp4"


@pytest.mark.parametrize(
    "named", ["../secret", "out", "gone.mp4", "inner", ".", "/etc/passwd", "http://127.0.0.1/a.mp4", "a\0b", ""]
)
def test_nothing_else_is(folder: Path, named: str) -> None:
    with pytest.raises(ConfigError):
        uploaded(named if named.startswith(("/", "http")) else f"{folder}/{named}", folder)


@pytest.mark.parametrize(
    ("limits", "refused"),
    [({"seconds": 7}, True), ({"pixels": 100}, True), ({}, False)],
    ids=["long", "many pixels", "within"],
)
def test_a_video_is_measured_before_it_is_decoded(
    limits: dict[str, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: Any, **__: Any) -> Any:
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr("prunevid_qwen.video.reader.read", decoded, raising=False)
    if not refused:
        check_video(CLIP, UploadLimits(**limits))
        return
    with pytest.raises(MediaError, match=CLIP.name):
        check_video(CLIP, UploadLimits(**limits))


def test_a_large_file_is_refused_unopened(tmp_path: Path) -> None:
    for check in (check_video, check_image):
        path = tmp_path / "large.bin"
        with path.open("wb") as file:
            file.truncate(2 * 10**6)
        with pytest.raises(MediaError, match=r"2 MB.*max_megabytes"):
            check(path, UploadLimits(megabytes=1))


def test_images_are_measured(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    check_image(tmp_path / "a.png", UploadLimits(pixels=200))
    with pytest.raises(MediaError, match="200 pixels"):
        check_image(tmp_path / "a.png", UploadLimits(pixels=199))
    UploadLimits(images=2).check_images(2)
    with pytest.raises(MediaError, match="at most 2"):
        UploadLimits(images=2).check_images(3)
    with pytest.raises(ConfigError, match="images"):
        UploadLimits(images=0)


def test_the_examples_are_what_a_browser_plays() -> None:
    found = dict(example_clips())
    assert {Path(each).suffix for each in found} == {".mp4", ".webm"}
    assert all(Path(each).is_file() and question.endswith("?") for each, question in found.items())


def file_of(path: Path | str, **more: Any) -> dict[str, Any]:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


def said(folder: Path, body: Any = None, path: str = "/gradio_api/queue/join", method: str = "POST",
         kind: str = "application/json", pieces: int = 1) -> tuple[int, bytes | None]:  # fmt: skip
    """Send a request through the middleware; return the status, and the body that Gradio's application was given."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    step = max(1, -(-len(raw) // pieces))
    parts = [raw[at : at + step] for at in range(0, len(raw), step)] or [b""]
    told: list[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": number < len(parts) - 1}
        for number, part in enumerate(parts)
    ]
    got: list[bytes] = []
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return told.pop(0) if told else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def gradio(_scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            got.append(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    scope = {"type": "http", "path": path, "method": method, "headers": [(b"Content-Type", kind.encode())]}
    asyncio.run(UploadsAlone(gradio, folder)(scope, receive, send))
    return sent[0]["status"], b"".join(got) if got else None


def test_a_message_about_an_upload_goes_through_unchanged(folder: Path) -> None:
    mine = folder / "a.mp4"
    message = {"data": ["video", {"video": file_of(mine, url=f"http://127.0.0.1/gradio_api/file={mine}")}, "What?"]}
    for pieces in (1, 7):
        assert said(folder, message, pieces=pieces) == (200, json.dumps(message).encode())
    assert said(folder, b"") == (200, b"")
    assert said(folder, {"data": ["the /file=http: of a question"]})[0] == 200  # words are words


@pytest.mark.parametrize(
    "message",
    [
        {"data": [file_of("/etc/passwd")]},
        {"data": [[{"image": {"deep": [file_of("https://example.com/a.mp4")]}}]]},
        {"data": [{"path": "../secret"}]},
        {"data": [{"path": None, "url": "http://169.254.169.254/latest"}]},
        {"data": [{"url": "http://127.0.0.1/gradio_api/file=/etc/passwd"}]},
        {"data": [{"meta": {"_type": "gradio.FileData"}, "data": "/etc/passwd"}]},
    ],
    ids=["path", "address", "relative", "url", "url of a file", "data"],
)
def test_a_message_about_anything_else_is_refused(folder: Path, message: Any) -> None:
    assert said(folder, message) == (400, None)


def test_no_address_is_fetched_and_no_message_is_endless(folder: Path) -> None:
    for path in ("/gradio_api/file=http://example.com/a", "/gradio_api/proxy=http://example.com", "/file=HTTPS://a"):
        assert said(folder, b"", path, "GET") == (400, None)
    assert said(folder, b"[" * 10**5) == (400, None)
    assert said(folder, b"not json") == (400, None)
    assert said(folder, b'"' + b"a" * MOST_BYTES + b'"', pieces=3) == (400, None)
    assert said(folder, b"a" * (MOST_BYTES + 1), kind="multipart/form-data; boundary=x")[0] == 200  # has its own limit


def test_a_playlist_that_names_other_files_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "inner.mp4").write_bytes(CLIP.read_bytes())
    path = tmp_path / "list.mp4"
    path.write_bytes(b"ffconcat version 1.0\nfile inner.mp4\n")
    with pytest.raises(MediaError):
        check_video(path, UploadLimits())
