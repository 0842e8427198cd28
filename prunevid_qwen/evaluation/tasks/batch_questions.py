"""Questions of a user, a file of them or some about a folder: checked whole before a model is loaded."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, MediaError, excerpt, quoted
from prunevid_qwen.evaluation.datasets.record import Media, MediaKind
from prunevid_qwen.evaluation.engine.conversations import Conversation, read_conversation, texts_of
from prunevid_qwen.inputs.messages import Item
from prunevid_qwen.video.data_uris import is_data_uri, named
from prunevid_qwen.video.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_order
from prunevid_qwen.video.paths import local_path
from prunevid_qwen.video.sampling import check_request

_VIDEOS, _IMAGES, _RANGE = ("video", "video_path"), ("image", "images"), ("start", "end")
_ASKED = ("question", "messages", *_VIDEOS, *_IMAGES, *_RANGE)
_NAMES = (("id",), ("question",), ("messages",), _VIDEOS, _IMAGES, ("start",), ("end",))  # () holds words for one thing
_PLACEHOLDERS = ("<|video_pad|>", "<|image_pad|>")
_SHORT = 3  # letters of a name that has too many neighbours: "idx" is no misspelt "id"
_SHOWN = 20  # bad lines in one message


@dataclass(frozen=True)
class BatchQuestion(Conversation):
    """A line of a file of questions, as an engine asks it.

    Args:
        given_id: as it stands there; the line's number where none does.
        media: in the order of the prompt.
        conversation: chat messages; ``{"medium": 0}`` stands where the first of the media belongs.
        question: the text, for the answer's line.
        asked: a hash of everything that the line asks.
        extra: what else stands in the line, handed through.
    """

    given_id: str | int
    media: tuple[Media, ...]
    conversation: tuple[dict[str, Any], ...]
    question: str
    asked: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:  # type: ignore[override]
        """The same whether it was given as text or as a number."""
        return str(self.given_id)

    def about(self) -> dict[str, Any]:
        """Return what an answer's line says of the question itself."""
        return {"id": self.given_id, "question": self.question, "asked": self.asked, "extra": self.extra}


def read_questions(path: Path, system: str | None = None, limit: int | None = None) -> list[BatchQuestion]:
    """Read a file of questions.

    A line has "question" and its media, "video" (or "video_path") and "image" (or "images"), each a path or a list of
    them, videos before images in the prompt; "start" and "end" in seconds are those of all its videos. Or it has
    "messages", a conversation as chat formats have it: content is text or a list of items of type text, video (which
    may have a start and an end of its own) and image; a last message of the assistant is continued. Paths start from
    the file's folder; an image may be a ``data:`` URI. "id" is text or a whole number; what has none is called by the
    number of its line. Any other key is handed through.

    Args:
        path: of the file.
        system: a first message of the system, before every question.
        limit: only so many, from the beginning; all lines are checked.

    Raises:
        ConfigError: no such file, no question in it, or bad lines, each with its number and what is wrong.
    """
    text = _text_of(path, "one JSON object a line is expected")
    questions: list[BatchQuestion] = []
    wrong: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            question = _question(_object(line), number, path.resolve().parent, system)
            if question.id in seen:
                raise ConfigError(f"id {quoted(question.id)} is that of line {seen[question.id]} too")
        except ConfigError as error:
            wrong.append(f"line {number}: {error}")
        else:
            seen[question.id] = number
            questions.append(question)
    if wrong:
        more = [f"{len(wrong) - _SHOWN} more lines"] if len(wrong) > _SHOWN else []
        raise ConfigError("\n".join([f"{path} has lines that cannot be asked; nothing was:", *wrong[:_SHOWN], *more]))
    if not questions:
        raise ConfigError(f'{path} holds no question: write lines such as {{"video": "a.mp4", "question": "What?"}}')
    return questions[:limit]


def questions_for_folder(
    folder: Path, questions: Sequence[str], system: str | None = None, limit: int | None = None
) -> list[BatchQuestion]:
    """Ask the same of every video and image of a folder and of the folders in it, in the order of their names.

    Args:
        folder: hidden files in it are passed over.
        questions: at least one; all about one file come together. The id of each is the file's path in the folder, and
            the question's number behind a #, from 1: questions may be added at the end later.
        system: as for `read_questions`.
        limit: only so many, from the beginning.

    Raises:
        ConfigError: no such folder, nothing to look at in it, no question, or one that cannot be asked.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder at {folder}: give one of videos or images, or a file of questions")
    if not questions:
        raise ConfigError(f"no question about {folder}: pass --question, or --question-file with a question a line")
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = [each.as_posix() for each in inside if not any(part.startswith(".") for part in each.parts)]
    kinds = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
    shown = [(kind, name) for name in names for kind, known in kinds.items() if name.lower().endswith(known)]
    if not shown:
        raise ConfigError(
            f"{folder} holds neither video ({', '.join(VIDEO_SUFFIXES)}) nor image ({', '.join(IMAGE_SUFFIXES)})"
        )
    found: list[BatchQuestion] = []
    for kind, name in sorted(shown, key=lambda each: natural_order(each[1])):
        for number, question in enumerate(questions, 1):
            given = {"id": f"{name}#{number}", kind: name, "question": question}
            found.append(_question(given, len(found) + 1, folder.resolve(), system))
    return found[:limit]


def read_question_file(path: Path) -> list[str]:
    """Read a text file with a question a line; empty lines are passed over.

    Raises:
        ConfigError: no such file, or no question in it.
    """
    lines = [line.strip() for line in _text_of(path, "a question a line is expected").splitlines()]
    if not any(lines):
        raise ConfigError(f"{path} holds no question: write one a line")
    return [line for line in lines if line]


def _text_of(path: Path, expected: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"no UTF-8: {error}"
        raise ConfigError(f"cannot read the questions in {path} ({reason}): {expected}") from None


def missing_media(questions: Sequence[BatchQuestion]) -> list[str]:
    """Return the paths at which nothing is, each once, in order."""
    paths = dict.fromkeys(media.path for question in questions for media in question.media)
    return [path for path in paths if not is_data_uri(path) and not os.path.exists(path)]


def _object(line: str) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"no JSON ({error})") from None
    if not isinstance(given, dict):
        raise ConfigError(f"a JSON object is expected, got {line.strip():.60}")
    return given


def _check_spelling(given: dict[str, Any]) -> None:
    """Refuse a key that is nearly one that is not there: it would be handed through, and something else asked."""
    missing = [name for names in _NAMES if not any(name in given for name in names) for name in names]
    if "messages" in given:
        missing = [name for name in missing if name == "id"]
    elif any(name in given for name in (*_VIDEOS, *_IMAGES)):
        missing.remove("messages")
    for key in given:
        if key in ("id", *_ASKED):
            continue
        near = difflib.get_close_matches(key.lower(), missing, n=1, cutoff=0.8)
        if near and (key.lower() == near[0] or len(near[0]) > _SHORT):
            raise ConfigError(f"{quoted(key)} is no key that is read: did you mean {near[0]!r}?")


def _question(given: dict[str, Any], number: int, folder: Path, system: str | None) -> BatchQuestion:
    _check_spelling(given)
    name = given.get("id", number)
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise ConfigError(f"id is text or a whole number, got {quoted(name)}")
    before = [] if system is None else [{"role": "system", "content": system}]
    if "messages" in given:
        twice = [key for key in _ASKED if key in given and key != "messages"]
        if twice:
            raise ConfigError(f"messages bring their own question and media: leave out {', '.join(twice)}")
    messages = given["messages"] if "messages" in given else _as_messages(given)
    media, conversation, question = _conversation(messages, folder)
    if system is not None and conversation[0]["role"] == "system":
        raise ConfigError("it has a system message of its own, and --system gives another")
    asked = hashlib.sha256(json.dumps({key: given[key] for key in _ASKED if key in given}, sort_keys=True).encode())
    return BatchQuestion(
        name,
        media,
        (*before, *conversation),
        question,
        asked.hexdigest()[:16],
        {key: value for key, value in given.items() if key not in ("id", *_ASKED)},
    )


def _as_messages(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Write a plain line as the conversation that it stands for."""
    question = given.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(f"question is a text, got {quoted(question)}" if "question" in given else "no question")
    videos, images = (_paths(given, names) for names in (_VIDEOS, _IMAGES))
    if not videos and not images:
        raise ConfigError('nothing to look at: give "video" or "image"')
    seconds = {key: given.get(key) for key in _RANGE}
    if not videos and any(value is not None for value in seconds.values()):
        raise ConfigError("start and end are seconds of a video, and it has none")
    content = [{"type": "video", "video": path, **seconds} for path in videos]
    content += [{"type": "image", "image": path} for path in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def _paths(given: dict[str, Any], names: Sequence[str]) -> list[str]:
    found = [name for name in names if given.get(name) is not None]
    if len(found) > 1:
        raise ConfigError(f"{' and '.join(found)} say the same thing twice")
    if not found:
        return []
    value = given[found[0]]
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path.strip() for path in paths):
        raise ConfigError(f"{found[0]} is a path or a list of paths, got {quoted(value, 60)}")
    return paths


def _conversation(given: Any, folder: Path) -> tuple[tuple[Media, ...], list[dict[str, Any]], str]:
    if not isinstance(given, list) or not given:
        raise ConfigError(f"messages is a list of chat messages, got {quoted(given, 60)}")

    def medium(item: Item, _: int) -> Media:
        if not isinstance(item.held, str) or not item.held.strip():
            raise ConfigError(f"a {item.kind} of a line is a path, got {quoted(item.held, 60)}")
        return _media(item.kind, item.held, folder, item.options.get("start"), item.options.get("end"))

    conversation, media = read_conversation(given, medium)
    for message in conversation:
        for text in texts_of(message):
            _check_text(text)
    asked = [texts for message in conversation if message["role"] == "user" and (texts := texts_of(message))]
    question = "\n".join(asked[-1]) if asked else ""
    if not question.strip():
        raise ConfigError("no message of the user has a text")
    if not media:
        raise ConfigError("nothing to look at: no item of its messages is a video or an image")
    return tuple(media), conversation, question


def _media(kind: str, path: str, folder: Path, start: Any = None, end: Any = None) -> Media:
    if is_data_uri(path):
        if kind == "image":
            return Media("image", path)
        raise ConfigError(f"{named(path)} stands where a path does: save it to a file, and give that file's path")
    try:
        whole = folder / local_path(path, folder)
    except MediaError:
        raise ConfigError(f"{excerpt(path)} is an address: download it and give the file's path") from None
    check_request(2, "uniform", 1.0, start, end)
    known: MediaKind = "image" if kind == "image" else "frames" if os.path.isdir(whole) else "video"
    return Media(known, str(whole), start, end)


def _check_text(text: str) -> None:
    found = [mark for mark in _PLACEHOLDERS if mark in text]
    if found:
        raise ConfigError(f"the text holds {found[0]}, which stands for a video or an image: leave it out")
