"""Pictures with boxes from a file of records and a folder of images: read when asked for, closed, and forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import MediaError
from prunevid_qwen.training.glimpse.box_units import picture_boxes
from prunevid_qwen.training.glimpse.flaws import Flaw
from prunevid_qwen.training.glimpse.json_records import JsonRecords
from prunevid_qwen.training.glimpse.layouts import Layout, WrittenRecord
from prunevid_qwen.training.glimpse.records import Box, BoxRecord, Inspected

IMAGE_CHECKS = ("none", "size", "verify", "decode")
"""How far the checker reads a picture: not at all, its size, what Pillow verifies without decoding, everything."""

_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 exchange the sides


class PictureData:
    """`BoxData` of a file.

    Args:
        records: the file's records, or a sample of them.
        images: the folder that image names are relative to.
        layout: how a record is written.
        box_type: unit of its boxes, see `BOX_TYPES`.
        overshoot: share of a side by which a box may stick out of the picture; so much is cut off.
        prompt: what the user writes, with ``{question}`` in it.
    """

    def __init__(
        self,
        records: JsonRecords,
        images: str | Path,
        layout: Layout,
        box_type: str,
        overshoot: float = 0.01,
        prompt: str = "{question}",
    ) -> None:
        self.records, self.images = records, Path(images)
        self._layout, self._box_type, self._overshoot, self._prompt = layout, box_type, overshoot, prompt

    def __len__(self) -> int:
        """Count the records."""
        return len(self.records)

    def __iter__(self) -> Iterator[BoxRecord]:
        """Read one record after the other."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> BoxRecord:
        """Read one record; its picture is opened only where its size is needed and not written.

        Raises:
            IndexError: there is none of that index.
            MediaError: something is wrong with it.
        """
        written = self._read(index)
        path = self._path(written)
        boxes, flaws = ((), list(written.flaws)) if written.flaws else self._boxes(written, path)
        if flaws:
            raise MediaError(
                f"{self._where(index)}: {flaws[0].sentence()}. check_data lists all such records, and its skip_bad the "
                "others"
            )
        name = written.id or f"{self.records.path.stem}:{self.records.number(index)}"
        question = self._prompt.replace("{question}", written.question)
        return BoxRecord(name, str(path), question, written.answer, boxes)

    def inspect(self, index: int, images: str) -> Inspected:
        """Look for everything that may be wrong with a record; ``images`` is one of ``IMAGE_CHECKS``."""
        written = self._read(index)
        path = self._path(written)
        flaws = list(written.flaws)
        known = {flaw.kind for flaw in flaws}
        if images != "none" and written.image:
            wrong = _inspect_image(path, images, written)[1]
            flaws += wrong
            if wrong and wrong[0].kind != "wrong_size":
                known.add("unreadable_image")
        if not known & {"box_form", "no_box", "not_a_record"} and not (
            written.size is None and self._box_type != "normalised" and known & {"unreadable_image", "missing_image"}
        ):
            more = self._boxes(written, path)[1]
            flaws += [flaw for flaw in more if flaw.kind not in {other.kind for other in flaws}]
        return Inspected(self._where(index), written.id, tuple(flaws))

    def _read(self, index: int) -> WrittenRecord:
        try:
            content: Any = self.records[index]
        except ValueError as error:  # bad JSON and bad UTF-8 alike
            return WrittenRecord(flaws=(Flaw("not_a_record", f"what stands there is no JSON ({error})"),))
        return self._layout(content)

    def _where(self, index: int) -> str:
        return f"record {self.records.number(index)} of {self.records.path}"

    def _path(self, written: WrittenRecord) -> Path:
        """The picture's path: with the data set's folder if it is there, else without, if it is there."""
        first, second = self.images / written.folder / written.image, self.images / written.image
        return second if first != second and not first.is_file() and second.is_file() else first

    def _boxes(self, written: WrittenRecord, path: Path) -> tuple[tuple[Box, ...], list[Flaw]]:
        size = written.size
        if size is None and self._box_type != "normalised":
            size, wrong = _inspect_image(path, "size", written)
            if size is None:
                return (), wrong
        return picture_boxes(written.boxes, self._box_type, size, self._overshoot)


def _inspect_image(path: Path, how: str, written: WrittenRecord) -> tuple[tuple[int, int] | None, list[Flaw]]:
    """Width and height as the picture is shown, None where it cannot be opened, and what is wrong with it."""
    from PIL import Image

    if not path.is_file():
        return None, [Flaw("missing_image", f"no picture at {path}")]
    try:
        if how == "verify":
            with Image.open(path) as image:
                image.verify()  # spoils the image for anything else
        with Image.open(path) as image:
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)  # Pillow decodes a png to find it
            size = (image.height, image.width) if turned else (image.width, image.height)
            if how == "decode":
                image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow raises all of them
        return None, [Flaw("unreadable_image", f"the picture {path} cannot be read ({error})")]
    if written.size in (None, size):
        return size, []
    said = f"{written.size[0]}x{written.size[1]}" if written.size else ""
    how_shown = ", turned as its EXIF says" if turned else ""
    return size, [
        Flaw("wrong_size", f"{path} is {size[0]}x{size[1]}{how_shown}, the record says {said} (width x height)")
    ]
