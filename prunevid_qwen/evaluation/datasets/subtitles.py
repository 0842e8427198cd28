"""Subtitles: SubRip files (Video-MME), and the two JSON forms of LongVideoBench. Times become seconds of the video."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import MediaError
from prunevid_qwen.evaluation.datasets.record import Subtitle

_CLOCK = r"(\d+):(\d{1,2}):(\d{1,2})(?:[,.](\d{1,3}))?"
_TIMES = re.compile(rf"^\s*{_CLOCK}\s*-->\s*{_CLOCK}", re.MULTILINE)
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
_NUMBER = re.compile(r"\n\s*\d+\s*\Z")


def read_subtitles(path: Path, first: float = 0.0, duration: float | None = None) -> tuple[Subtitle, ...]:
    """Read a .srt file, or a .json file as `read_longvideobench` does, which alone heeds the seconds."""
    return read_srt(path) if path.suffix == ".srt" else read_longvideobench(path, first, duration)


def read_srt(path: Path) -> tuple[Subtitle, ...]:
    """Read a SubRip file without tags and empty cues, in its order; a `MediaError` says that it holds no time."""
    text = _text(path).replace("\r\n", "\n").replace("\r", "\n")
    times = list(_TIMES.finditer(text))
    if not times:
        raise MediaError(f"{path} holds no subtitle (such as 00:00:01,000 --> 00:00:02,500): download it again")
    found = []
    for match, following in zip(times, [*times[1:], None], strict=True):
        said = "\n" + text[match.end() : following and following.start()].partition("\n")[2].rstrip()
        line = _one_line(_NUMBER.sub("", said) if following else said)  # the next cue's number
        if line:
            clock = match.groups()
            found.append(Subtitle(_seconds(*clock[:4]), _seconds(*clock[4:]), line))
    return tuple(found)


def read_longvideobench(path: Path, first: float = 0.0, duration: float | None = None) -> tuple[Subtitle, ...]:
    """Read a LongVideoBench file: a list of ``{start, end, line}`` ("00:01:02.500") or ``{timestamp: [s, e], text}``.

    The clips were cut out of longer videos and their subtitles were not: times are moved to the clip's own, and what is
    said outside it is left out.

    Args:
        first: second of the longer video at which the clip begins (``starting_timestamp_for_subtitles``).
        duration: seconds of the clip, None if unknown; a cue without an end lasts until then, or has no length.

    Raises:
        MediaError: the file cannot be read or is of neither form.
    """
    inside, until = [], float("inf") if duration is None else duration
    try:
        for cue in json.loads(_text(path)):
            start, end = cue["timestamp"] if "timestamp" in cue else (cue["start"], cue["end"])
            text = _one_line(str(cue["text" if "timestamp" in cue else "line"]))
            start = _moment(start) - first
            end = _moment(end) - first if end is not None else start if duration is None else max(start, duration)
            if text and end >= 0 and start <= until:
                inside.append(Subtitle(max(0.0, start), min(until, end), text))
    except (ValueError, TypeError, KeyError) as error:
        said = f"{type(error).__name__}: {error}"
        raise MediaError(f"{path} holds no subtitles that LongVideoBench has ({said[:90]})") from error
    return tuple(inside)


def _moment(value: Any) -> float:
    if not isinstance(value, str):
        return float(value)
    hours, minutes, seconds = value.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))


def _seconds(hours: str, minutes: str, seconds: str, thousandths: str | None) -> float:
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int((thousandths or "0").ljust(3, "0")) / 1000


def _one_line(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", text)).split())


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f"the subtitles {path} cannot be read ({error.strerror}): check the file") from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding, "replace")
