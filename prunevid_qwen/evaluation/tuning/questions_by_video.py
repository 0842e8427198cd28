"""The videos of a tuning and the questions about each: from words, and from a file with an object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from prunevid_qwen.config.option_checks import nearest
from prunevid_qwen.errors import ConfigError, MediaError, quoted

_NAMES = ("question", "video")


def questions_by_video(videos: Sequence[str], questions: Sequence[str], file: Path | None) -> dict[str, list[str]]:
    """Return the questions about each video, each once, in the order of coming.

    Args:
        videos: paths.
        questions: asked of each of ``videos``.
        file: a JSON object a line with "question", and "video" where it is about one video alone; its path starts from
            the file's folder. A question without one is asked of each of ``videos``. Other keys are left alone.

    Raises:
        MediaError: the file cannot be read.
        ConfigError: bad lines, each with its number; or nothing to ask.
    """
    found: dict[str, list[str]] = {each: list(questions) for each in videos}
    for video, question in _lines(file, bool(videos)) if file is not None else ():
        for each in found if video is None else (video,):
            found.setdefault(each, []).append(question)
    asked = {video: list(dict.fromkeys(own)) for video, own in found.items() if own}
    if not asked:
        raise ConfigError(
            "nothing to ask: name videos and --question, or --questions FILE.jsonl with lines such as "
            '{"video": "a.mp4", "question": "What happens?"}'
        )
    return asked


def _lines(file: Path, videos: bool) -> list[tuple[str | None, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"cannot read the questions in {file} ({error}): a JSON object a line is expected") from None
    found, wrong = list[tuple[str | None, str]](), list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append(_line(line, file.resolve().parent, videos))
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        raise ConfigError(f"{file}: " + "; ".join(wrong[:10]))
    return found


def _line(line: str, folder: Path, videos: bool) -> tuple[str | None, str]:
    try:
        read = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg})") from None
    if not isinstance(read, dict) or not isinstance(read.get("question"), str) or not read["question"].strip():
        near = next((name for name in read if nearest(name, ("question",))), None) if isinstance(read, dict) else None
        meant = f"; did you mean 'question' by {quoted(near)}?" if near not in (None, "question") else ""
        raise ValueError(f'an object with a text "question" is expected, got {quoted(line.strip(), 60)}{meant}')
    video = read.get("video")
    if video is None and not videos:
        raise ValueError('no "video", and no videos were named for such questions')
    if not isinstance(video, (str, type(None))):
        raise ValueError(f'"video" is a path, got {quoted(str(video))}')
    return None if video is None else str(folder / video), read["question"]
