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
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.task import Conversation, media_at, read_conversation
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
    """A line of a file of questions, as an engine asks it."""

    given_id: str | int  # as it stands there; the line's number where none does
    media: tuple[Media, ...]
    conversation: tuple[dict[str, Any], ...]
    question: str  # the text, for the answer's line
    asked: str  # a hash of everything that the line asks
    extra: dict[str, Any] = field(default_factory=dict)  # what else stands in the line, handed through

    @property
    def id(self) -> str:  # type: ignore[override]
        """The same whether it was given as text or as a number."""
        return str(self.given_id)

    def about(self) -> dict[str, Any]:
        """Return what an answer's line says of the question itself."""
        return {"id": self.given_id, "question": self.question, "asked": self.asked, "extra": self.extra}


def read_questions(path: Path, system: str | None = None) -> list[BatchQuestion]:
    """Read a file of questions.

    A line has "question" and its media, "video" (or "video_path") and "image" (or "images"), each a path or a list of
    them, videos before images in the prompt; "start" and "end" in seconds are those of all its videos. Or it has
    "messages", as chat formats have them, in which a video may have a start and an end of its own. Paths start from the
    file's folder; an image may be a ``data:`` URI. "id" is text or a whole number, else the line's number. Any other
    key is handed through. ``system`` is a message of the system before every question.

    Raises:
        MediaError: no such file.
        ConfigError: no question in it, or bad lines, each with its number and what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        said = f"cannot read the questions in {path} ({error.strerror}): one JSON object a line is expected"
        raise MediaError(said) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the questions in {path} (no UTF-8: {error}): save it as UTF-8") from None
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
    return questions


def questions_for_folder(folder: Path, questions: Sequence[str], system: str | None = None) -> list[BatchQuestion]:
    """Ask the same of every video and image of a folder and of the folders in it, in the order of their names.

    The id of each is the file's path in the folder and the question's number behind a #, from 1. Raises as
    `read_questions`, and where there is nothing to look at.
    """
    if not folder.is_dir():
        raise MediaError(f"no folder at {folder}: give one of videos or images, or a file of questions")
    if not questions:
        raise ConfigError(f"no question about {folder}: pass --question, or --question_file with a question a line")
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = [each.as_posix() for each in inside if not any(part.startswith(".") for part in each.parts)]
    kinds = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
    shown = [(kind, name) for name in names for kind, known in kinds.items() if name.lower().endswith(known)]
    if not shown:
        raise MediaError(
            f"{folder} holds neither video ({', '.join(VIDEO_SUFFIXES)}) nor image ({', '.join(IMAGE_SUFFIXES)})"
        )
    found: list[BatchQuestion] = []
    for kind, name in sorted(shown, key=lambda each: natural_order(each[1])):
        for number, question in enumerate(questions, 1):
            given = {"id": f"{name}#{number}", kind: name, "question": question}
            found.append(_question(given, len(found) + 1, folder.resolve(), system))
    return found


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
    missing = [name for names in _NAMES if not any(name in given for name in names) for name in names]
    if "messages" in given:
        missing = [name for name in missing if name == "id"]
    elif any(name in given for name in (*_VIDEOS, *_IMAGES)):
        missing.remove("messages")
    for key in given:  # one that is nearly a name would be handed through, and something else asked
        near = difflib.get_close_matches(key.lower(), missing, n=1, cutoff=0.8)
        if key not in ("id", *_ASKED) and near and (key.lower() == near[0] or len(near[0]) > _SHORT):
            raise ConfigError(f"{quoted(key)} is no key that is read: did you mean {near[0]!r}?")
    return given


def _question(given: dict[str, Any], number: int, folder: Path, system: str | None) -> BatchQuestion:
    name = given.get("id", number)
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise ConfigError(f"id is text or a whole number, got {quoted(name)}")
    twice = [key for key in _ASKED if key in given and key != "messages"]
    if "messages" in given and twice:
        raise ConfigError(f"messages bring their own question and media: leave out {', '.join(twice)}")
    messages = given["messages"] if "messages" in given else _as_messages(given)
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f"messages is a list of chat messages, got {quoted(messages, 60)}")
    conversation, media = read_conversation(messages, lambda item, _: _medium(item, folder))
    contents = [message["content"] for message in conversation]
    texts = [[own] if isinstance(own, str) else [item["text"] for item in own if "text" in item] for own in contents]
    marks = [mark for mark in _PLACEHOLDERS if any(mark in text for own in texts for text in own)]
    if marks:
        raise ConfigError(f"the text holds {marks[0]}, which stands for a video or an image: leave it out")
    said = [own for own, message in zip(texts, conversation, strict=True) if message["role"] == "user" and own]
    question = "\n".join(said[-1]) if said else ""
    if not question.strip():
        raise ConfigError("no message of the user has a text")
    if not media:
        raise ConfigError("nothing to look at: no item of its messages is a video or an image")
    if system is not None:
        if conversation[0]["role"] == "system":
            raise ConfigError("it has a system message of its own, and --system gives another")
        conversation.insert(0, {"role": "system", "content": system})
    asked = json.dumps({key: given[key] for key in _ASKED if key in given}, sort_keys=True).encode()
    extra = {key: value for key, value in given.items() if key not in ("id", *_ASKED)}
    hashed = hashlib.sha256(asked).hexdigest()[:16]
    return BatchQuestion(name, tuple(media), tuple(conversation), question, hashed, extra)


def _as_messages(given: dict[str, Any]) -> list[dict[str, Any]]:
    """Write a plain line as the conversation that it stands for."""
    question = given.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ConfigError(f"question is a text, got {quoted(question)}" if "question" in given else "no question")
    seconds = {key: given[key] for key in _RANGE if given.get(key) is not None}
    content: list[dict[str, Any]] = []
    for kind, names in (("video", _VIDEOS), ("image", _IMAGES)):
        found = [name for name in names if given.get(name) is not None]
        if len(found) > 1:
            raise ConfigError(f"{' and '.join(found)} say the same thing twice")
        for name in found:
            paths = [given[name]] if isinstance(given[name], str) else given[name]
            if not isinstance(paths, list) or not paths or not all(isinstance(each, str) for each in paths):
                raise ConfigError(f"{name} is a path or a list of paths, got {quoted(given[name], 60)}")
            content += [{"type": kind, kind: path, **(seconds if kind == "video" else {})} for path in paths]
    if not content:
        raise ConfigError('nothing to look at: give "video" or "image"')
    if seconds and content[0]["type"] != "video":
        raise ConfigError("start and end are seconds of a video, and it has none")
    return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]


def _medium(item: Item, folder: Path) -> Media:
    if not isinstance(item.held, str) or not item.held.strip():
        raise ConfigError(f"a {item.kind} of a line is a path, got {quoted(item.held, 60)}")
    if is_data_uri(item.held):
        if item.kind == "image":
            return Media("image", item.held)
        raise ConfigError(f"{named(item.held)} stands where a path does: save it to a file, and give that file's path")
    try:
        media = media_at(item, str(folder / local_path(item.held, folder)))
    except MediaError:
        raise ConfigError(f"{excerpt(item.held)} is an address: download it and give the file's path") from None
    check_request(2, "uniform", 1.0, media.start, media.end)
    return media
