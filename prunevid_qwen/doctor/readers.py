"""Video readers: each installed one reads a clip in each codec, and all have to see the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prunevid_qwen.doctor.apart import clips_read, is_there
from prunevid_qwen.doctor.finding import ABSENT, FAULT, OK, WARNING, Finding, first_line

_FOLDER = Path(__file__).resolve().parents[1] / "bundled" / "codecs"
CLIPS = {
    "H.264": _FOLDER / "h264.mp4",
    "H.265": _FOLDER / "h265.mp4",
    "VP9": _FOLDER / "vp9.webm",
    "AV1": _FOLDER / "av1.mp4",
}
"""A clip of `drawn_clip.drawn_frames` in each codec; ``tools/make_codec_clips.py`` writes them."""
DEFAULT = "pyav"
LEVELS = 12.0
"""Levels of 255 by which an area may be off on average: encoding and the way back to RGB cost up to 3."""
_OWN_FFMPEG = "pip install --force-reinstall --only-binary av av: its wheels carry an FFmpeg with every codec"
_CONVERT = "use video_backend='pyav', or convert: ffmpeg -i IN -c:v libx264 OUT.mp4"


def readers(clips: dict[str, Path] = CLIPS) -> Iterator[Finding]:
    """Have each installed reader read ``clips``, by codec."""
    from prunevid_qwen.video.backends import BACKENDS  # loads numpy, which may be what is broken

    expected: dict[str, list[float]] = {}  # of the default reader
    for backend, (_, module, extra) in BACKENDS.items():
        needed = backend == DEFAULT
        install = "pip install av" if needed else f"pip install 'prunevid_qwen[{extra}]'"
        if not is_there(module):
            said = "not installed" if needed else f"not installed; {DEFAULT} is the default"
            yield Finding(backend, FAULT if needed else ABSENT, said, install)
            continue
        found = clips_read(backend, clips)
        if needed:
            expected = {codec: said["areas"] for codec, said in found.items() if "areas" in said}
        yield _judged(backend, found, expected, install, clips)


def _judged(
    backend: str,
    found: dict[str, dict[str, Any]],
    expected: dict[str, list[float]],
    install: str,
    clips: dict[str, Path],
) -> Finding:
    needed = backend == DEFAULT
    bad = FAULT if needed else WARNING
    figures = {codec: {name: said[name] for name in ("off", "error") if name in said} for codec, said in found.items()}
    lost = [codec for codec, said in found.items() if "error" in said]
    why = "" if not lost else found[lost[0]]["error"].replace(str(clips[lost[0]]), "the clip")
    if len(lost) == len(found):
        return Finding(backend, bad, f"reads nothing: {first_line(why)}", install, figures)
    wrong = [codec for codec, said in found.items() if said.get("off", 0.0) > LEVELS]
    other = [
        codec
        for codec, said in found.items()
        if codec in expected and "areas" in said and _apart(said["areas"], expected[codec]) > LEVELS
    ]
    read = ", ".join(codec for codec in found if codec not in (*lost, *wrong, *other))
    again = _OWN_FFMPEG if needed else _CONVERT
    if wrong or other:
        colours = ", ".join(dict.fromkeys((*wrong, *other)))
        return Finding(backend, bad, f"decodes {colours} to other pictures than were encoded", again, figures)
    if lost:
        said = f"reads {read}; cannot decode {', '.join(lost)}: {first_line(why)}"
        return Finding(backend, bad, said, again, figures)
    return Finding(backend, OK, f"reads {read}; the frames are right", figures=figures)


def _apart(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
