"""The two ways of writing pictures with boxes down that are read here, a JSON object for each record.

``visual_cot``, what GlimpsePrune was trained on (Visual-CoT's ``*_cot_train.jsonl``)::

    {"question": "What is on the table?", "answer": "a cup", "image": "1592.jpg", "width": 640, "height": 480,
     "bboxs": [[120, 80, 260, 210]], "dataset": "gqa", "split": "train"}

The picture is ``images/<dataset>/<image>`` or else ``images/<image>``. Without ``width`` and ``height`` they are read
from the picture. "bboxes", "boxes" and "bbox" are understood for "bboxs", and one box without a list around it.

``llava``, conversations (LLaVA; Visual-CoT's ``viscot_363k.json`` and its benchmark)::

    {"id": "17", "image": ["cot/gqa/1592.jpg", "cot/gqa/1592.jpg###[120, 80, 260, 210]"],
     "conversations": [{"from": "human", "value": "<image>\\nWhat is on it? Please provide the bounding box ..."},
                       {"from": "gpt", "value": "[0.188, 0.250, 0.406, 0.453]"},
                       {"from": "human", "value": "<image>"},
                       {"from": "gpt", "value": "a cup"}]}

The question is the first human turn without ``<image>`` and without the request for a box; the answer is the first turn
of gpt that is more than a box (where all are boxes, the last). Later questions of a conversation are passed over. The
boxes stand in one of three places, and the data set says in which:

* "entry": behind ``###`` in an entry of ``image``;
* "field": in ``bboxs`` (or a name as above);
* "turn": in the first turn of gpt, as text. Beware: Visual-CoT's own evaluation reads these as shares of the *square*
  that LLaVA pads a picture to, ``box_type="square"``; its "entry" boxes are pixels.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.training.glimpse.flaws import Flaw

_FIELDS = ("bboxs", "bboxes", "boxes", "bbox")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_BOX = re.compile(rf"\[\s*({_NUMBER}(?:\s*,\s*{_NUMBER}){{3}})\s*\]")
_REQUEST = re.compile(r"\s*Please provide the bounding box.*", re.DOTALL)
_MARK = "###"


@dataclass(frozen=True)
class WrittenRecord:
    """A record as the file has it: nothing is divided, resolved or opened yet.

    Args:
        id: its own id, with data set and split where they are known; None where it has none.
        folder: of the data set, below the folder of pictures; may be "".
        image: file name or path below one of the two.
        size: width and height in pixels, None where they are not written.
        question: without marks for the picture.
        answer: as text.
        boxes: as written, in whatever unit.
        flaws: what is missing or malformed.
    """

    id: str | None = None
    folder: str = ""
    image: str = ""
    size: tuple[int, int] | None = None
    question: str = ""
    answer: str = ""
    boxes: tuple[tuple[float, ...], ...] = ()
    flaws: tuple[Flaw, ...] = ()


Layout = Callable[[Any], WrittenRecord]


def visual_cot(content: Any) -> WrittenRecord:
    """Read a record of Visual-CoT's training files."""
    if not isinstance(content, dict):
        return _no_record(content)
    flaws: list[Flaw] = []
    image = content.get("image")
    return _written(
        content,
        flaws,
        folder=_text(content.get("dataset")),
        image=image if isinstance(image, str) else "",
        question=_text(content.get("question")),
        answer=_text(content.get("answer")),
        boxes=_field_boxes(content, flaws),
    )


def llava(boxes_from: str) -> Layout:
    """Return the reader of conversations whose boxes stand in ``boxes_from``: "entry", "field" or "turn"."""

    def read(content: Any) -> WrittenRecord:
        if not isinstance(content, dict):
            return _no_record(content)
        flaws: list[Flaw] = []
        turns = [turn for turn in _listed(content.get("conversations")) if isinstance(turn, dict)]
        human = [_text(turn.get("value")) for turn in turns if turn.get("from") in ("human", "user")]
        gpt = [_text(turn.get("value")) for turn in turns if turn.get("from") in ("gpt", "assistant")]
        entries = [entry for entry in _listed(content.get("image")) if isinstance(entry, str)]
        places: dict[str, Callable[[], tuple[tuple[float, ...], ...]]] = {
            "entry": lambda: _text_boxes(" ".join(e.partition(_MARK)[2] for e in entries)),
            "field": lambda: _field_boxes(content, flaws),
            "turn": lambda: _text_boxes(gpt[0]) if gpt and _is_boxes(gpt[0]) else (),
        }
        said = gpt[1:] if boxes_from == "turn" else gpt
        answers = [text for text in said if not _is_boxes(text)] or said[-1:]
        question = human[0].replace("<image>", " ") if human else ""
        return _written(
            content,
            flaws,
            folder="",
            image=entries[0].partition(_MARK)[0] if entries else "",
            question=_REQUEST.sub("", question).strip(),
            answer=answers[0] if answers else "",
            boxes=places[boxes_from](),
        )

    return read


def _written(content: dict[str, Any], flaws: list[Flaw], *, boxes: tuple[tuple[float, ...], ...], **said: str) -> Any:
    if not said["question"]:
        flaws.append(Flaw("empty_question", "the record has no question"))
    if not said["answer"]:
        flaws.append(Flaw("empty_answer", "the record has no answer"))
    if not said["image"]:
        flaws.append(Flaw("missing_image", f"the record names no picture, image is {_short(content.get('image'))}"))
    if not boxes and not any(flaw.kind == "box_form" for flaw in flaws):
        flaws.append(Flaw("no_box", f"the record has no box where one was expected, it has {', '.join(content)}"))
    size = _size(content, flaws)
    return WrittenRecord(_id(content), size=size, boxes=boxes, flaws=tuple(flaws), **said)


def _id(content: dict[str, Any]) -> str | None:
    for name in ("id", "question_id"):
        if _text(content.get(name)):
            parts = (*(("dataset", "split") if name == "question_id" else ()), name)
            return "/".join(filter(None, (_text(content.get(part)) for part in parts)))
    return None


def _size(content: dict[str, Any], flaws: list[Flaw]) -> tuple[int, int] | None:
    width, height = content.get("width"), content.get("height")
    if width is None and height is None:
        return None
    if type(width) is int and type(height) is int and width > 0 and height > 0:
        return width, height
    flaws.append(
        Flaw("wrong_size", f"width and height are whole numbers above 0, got {_short(width)} and {_short(height)}")
    )
    return None


def _field_boxes(content: dict[str, Any], flaws: list[Flaw]) -> tuple[tuple[float, ...], ...]:
    name = next((name for name in _FIELDS if name in content), _FIELDS[0])
    given = content.get(name)
    if given is None or given == []:
        return ()
    listed = given if isinstance(given, list) else [given]
    if all(_is_number(part) for part in listed):
        listed = [listed]  # one box without a list around it
    for box in listed:
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(part) for part in box):
            flaws.append(Flaw("box_form", f"{name} holds {_short(box)}, expected [left, top, right, bottom]"))
            return ()
    return tuple(tuple(float(part) for part in box) for box in listed)


def _text_boxes(text: str) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(part) for part in found.split(",")) for found in _BOX.findall(text))


def _is_boxes(text: str) -> bool:
    return bool(_BOX.search(text)) and not _BOX.sub("", text).replace("and", "").strip(" \n.,;")


def _is_number(part: Any) -> bool:
    return isinstance(part, (int, float)) and not isinstance(part, bool) and math.isfinite(part)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    """A text, or a number as one; "" for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def _no_record(content: Any) -> WrittenRecord:
    return WrittenRecord(flaws=(Flaw("not_a_record", f"a record is a JSON object, got {_short(content)}"),))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
