"""From options to a data set: one description for pictures on disk and for videos that are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.moving_shapes import QUESTION_TYPES
from prunevid_qwen.training.glimpse.box_units import BOX_TYPES
from prunevid_qwen.training.glimpse.json_records import JsonRecords
from prunevid_qwen.training.glimpse.layouts import llava, visual_cot
from prunevid_qwen.training.glimpse.pictures import PictureData
from prunevid_qwen.training.glimpse.records import BoxData
from prunevid_qwen.training.glimpse.shapes_data import ShapesData

KINDS = ("visual_cot", "llava", "moving_shapes")
BOXES_FROM = ("entry", "field", "turn")


@dataclass(frozen=True)
class DataSpec:
    """What to train on.

    Args:
        kind: one of ``KINDS``.
        path: the file of records, JSON lines or a JSON list; none for moving_shapes.
        images: the folder that image names are relative to; none for moving_shapes.
        box_type: unit of the boxes in the file, a key of `BOX_TYPES`.
        boxes_from: llava only, where a record's boxes stand, one of ``BOXES_FROM``; see `layouts`.
        overshoot: share of a side by which a box may stick out of its picture, where it is cut; 0 to 0.5.
        prompt: what the user writes about a picture, with ``{question}`` in it.
        samples: how many records: drawn from the file without repetition, None takes all; moving_shapes needs a number.
        seed: of the draw, or of the videos; at least 0.
        held_out: moving_shapes only: scenes that nothing is trained on.
        conditions: moving_shapes only: kind of video -> how likely it is relative to the others; empty is all alike.
        types: moving_shapes only: kinds of question.
        choice_share: moving_shapes only: share of questions that ask for a letter.

    Raises:
        ConfigError: an option is unknown, outside its range, missing, or of no use to this kind.
    """

    kind: str
    path: str = ""
    images: str = ""
    box_type: str = "pixels"
    boxes_from: str = "entry"
    overshoot: float = 0.01
    prompt: str = "{question}"
    samples: int | None = None
    seed: int = 0
    held_out: bool = False
    conditions: Mapping[str, float] = field(default_factory=dict)
    types: tuple[str, ...] = QUESTION_TYPES
    choice_share: float = 0.3

    def __post_init__(self) -> None:
        for name, known in (("kind", KINDS), ("box_type", tuple(BOX_TYPES)), ("boxes_from", BOXES_FROM)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is one of {', '.join(known)}; got {quoted(getattr(self, name))}")
        object.__setattr__(self, "path", str(self.path))
        object.__setattr__(self, "images", str(self.images))
        object.__setattr__(self, "types", tuple(self.types))
        for name in ("samples", "seed"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < (name == "samples")):
                raise ConfigError(f"{name} is a whole number of at least {int(name == 'samples')}, got {quoted(value)}")
        if not 0 <= self.overshoot <= 0.5 or "{question}" not in self.prompt:
            raise ConfigError(
                "overshoot is 0 to 0.5 and prompt has {question} in it, got "
                f"{quoted(self.overshoot)} and {quoted(self.prompt)}"
            )
        drawn = self.kind == "moving_shapes"
        if drawn and (self.path or self.images or self.samples is None):
            raise ConfigError(
                f"moving_shapes is drawn, without end: say how many samples and neither path nor images; got "
                f"samples={quoted(self.samples)}, path={quoted(self.path)}, images={quoted(self.images)}"
            )
        if not drawn and not (self.path and self.images):
            raise ConfigError(
                f"{self.kind} needs path, the file of records, and images, the folder of pictures; got "
                f"path={quoted(self.path)}, images={quoted(self.images)}"
            )
        if not drawn and (self.held_out or self.conditions):
            raise ConfigError(f"held_out and conditions are options of moving_shapes, kind is {quoted(self.kind)}")


def open_data(spec: DataSpec) -> BoxData:
    """Open what is described; of a file, only where its records stand is read.

    Raises:
        ConfigError: more samples than the file has, or an option of moving_shapes is wrong.
        MediaError: the file is missing, unreadable, cut off or empty.
    """
    if spec.kind == "moving_shapes":
        return ShapesData(
            spec.samples or 0, spec.seed, spec.held_out, spec.conditions or None, spec.types, spec.choice_share
        )
    records = JsonRecords(spec.path, spec.samples, spec.seed)
    layout = visual_cot if spec.kind == "visual_cot" else llava(spec.boxes_from)
    return PictureData(records, spec.images, layout, spec.box_type, spec.overshoot, spec.prompt)
