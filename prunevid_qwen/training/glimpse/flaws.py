"""What can be wrong with a record, and what to do about each: one table for readers, checker and messages."""

from __future__ import annotations

from dataclasses import dataclass

FLAWS: dict[str, str] = {
    "not_a_record": "write one JSON object for each record, see prunevid_qwen.training.glimpse.layouts",
    "missing_image": "download the data set's pictures, or set images= to the folder that holds them",
    "unreadable_image": "copy or download the picture again",
    "wrong_size": "write the size of the picture as it is shown (upright), or leave width and height out",
    "no_box": "give the record at least one box, or set boxes_from= to the place that has them",
    "box_form": "write a box as four finite numbers: left, top, right, bottom",
    "box_unit": "set box_type= to the unit the file is written in",
    "box_outside": "correct the box, or allow more with overshoot=",
    "box_swapped": "write the left and upper corner first",
    "box_empty": "give the box a width and a height",
    "empty_question": "write a question",
    "empty_answer": "write an answer",
    "duplicate_id": "give every record an id of its own",
}
"""Kind of flaw -> the next step."""


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong with a record.

    Args:
        kind: a key of ``FLAWS``.
        text: what came and what was expected, without a full stop.
    """

    kind: str
    text: str

    def sentence(self) -> str:
        """Say what is wrong and what to do."""
        return f"{self.text}: {FLAWS[self.kind]}"
