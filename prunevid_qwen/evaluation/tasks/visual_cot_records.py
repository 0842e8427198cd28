"""Records of Visual-CoT (Shao et al., arXiv 2403.16999) in the two forms in which they are passed around.

The benchmark's files hold ``image: [path, "path###[x1, y1, x2, y2]"]`` and ``conversations``, whose first human turn
is the question with a request for a box behind it, and whose last model turn is the reference answer. Files made for
training hold ``question, answer, image, bboxs, width, height, dataset`` (Visual-CoT's metadata, one JSON a line).
`problems` says what is wrong with a set before a model is loaded to find out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.engine.reading import ReadMedia
from prunevid_qwen.evaluation.engine.tasks import Line, Question
from prunevid_qwen.video import read_image

Box = tuple[float, float, float, float]

_PLACEHOLDER = "<image>"
_SUFFIXES = (".json", ".jsonl")
_PREFIX = "cot/"  # the benchmark's image paths begin with it, whose folder may be the root itself

BOX_REQUEST = "Please provide the bounding box coordinate of the region that can help you answer the question better."
"""What the benchmark's files append to every question; a model that is asked for the answer alone must not see it."""


@dataclass(frozen=True)
class Sample:
    """One question about one image; what a record lacks is empty here, and `problems` names it.

    Args:
        set: name of the file it stands in, without the suffix: a row of the table.
        id: position in that file, from 0.
        image: path as the record has it.
        question: without placeholder and request for a box.
        answer: the reference.
        boxes: (x1, y1, x2, y2) in pixels of the image; what the answer is read from.
        dataset: where the image comes from ("v7w", "docvqa"): the folder of its images.
    """

    set: str
    id: int
    image: str
    question: str
    answer: str
    boxes: tuple[Box, ...] = ()
    dataset: str = ""

    @property
    def name(self) -> str:
        """Set and position, such as "gqa/17"."""
        return f"{self.set}/{self.id}"


def data_files(given: Sequence[Path]) -> list[Path]:
    """List the files that are meant: each a file, or a folder, which stands for its ``*.json`` and ``*.jsonl``.

    Raises:
        ConfigError: there is none, or two would give sets of one name.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES)
            if not inside:
                raise ConfigError(f"{path} holds no .json or .jsonl file: is it the folder of the sets?")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"no data at {path}: --data takes a file or a folder of .json or .jsonl files")
    if not found:
        raise ConfigError("nothing to ask: pass --data FILE, or the folder of the sets")
    by_name: dict[str, Path] = {}
    for path in found:
        other = by_name.setdefault(path.stem, path)
        if other != path:
            raise ConfigError(f"{other} and {path} would both be the set {path.stem!r}: rename one of them")
    return list(by_name.values())


def read_samples(path: Path) -> list[Sample]:
    """Read the samples of a file: a JSON list, or a JSON object a line.

    Raises:
        ConfigError: the file is neither, it holds no record, or one of them is of neither form.
    """
    return [_sample(path, number, record) for number, record in enumerate(_records(path))]


def _records(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8")
    records: Any = []
    try:
        records = json.loads(text)
    except ValueError as whole:
        for number, line in enumerate(text.splitlines(), 1):
            try:
                if line.strip():
                    records.append(json.loads(line))
            except ValueError as error:
                said = whole if text.lstrip().startswith("[") else error
                raise ConfigError(f"{path}, line {number} is not JSON ({said}): was its download cut short?") from None
    if isinstance(records, dict):  # a file of a single line
        records = [records]
    if not isinstance(records, list) or not records:
        raise ConfigError(f"{path} holds no records: expected a list of them, or one a line")
    return records


def _sample(path: Path, number: int, record: Any) -> Sample:
    if isinstance(record, dict) and "conversations" in record:
        return _from_conversations(path.stem, number, record)
    if isinstance(record, dict) and "question" in record:
        return Sample(
            path.stem,
            number,
            _text(record.get("image")),
            _question(_text(record["question"])),
            _text(record.get("answer")),
            tuple(_box(box) for box in record.get("bboxs") or ()),
            _text(record.get("dataset")),
        )
    keys = ", ".join(record) if isinstance(record, dict) else type(record).__name__
    raise ConfigError(
        f"{path}, record {number} ({keys}) is of no known form: expected image and conversations, or image, question "
        "and answer"
    )


def _from_conversations(name: str, number: int, record: dict[str, Any]) -> Sample:
    said = [(turn.get("from"), _text(turn.get("value"))) for turn in record["conversations"]]
    asked = [text for who, text in said if who == "human"]
    answered = [text for who, text in said if who == "gpt"]
    images = record.get("image") or ""
    paths = [images] if isinstance(images, str) else [_text(each) for each in images]
    marked = [each.partition("###")[2] for each in paths if "###" in each]
    return Sample(
        name,
        number,
        paths[0].partition("###")[0] if paths else "",
        _question(asked[0]) if asked else "",
        answered[-1] if answered else "",
        tuple(_box(json.loads(each)) for each in marked),
        _text(record.get("dataset")),
    )


def _question(text: str) -> str:
    return text.replace(_PLACEHOLDER, "").strip().removesuffix(BOX_REQUEST).strip()


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _box(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = (float(value) for value in values)
    return x1, y1, x2, y2


def image_path(sample: Sample, root: Path) -> Path:
    """Find the image of a sample: under the root as the record has it, else in the folder of its data set.

    Raises:
        MediaError: the sample cannot be asked: its record lacks something, or the image is at none of these places.
    """
    for what, text in (("question", sample.question), ("reference answer", sample.answer)):
        if not text:
            raise MediaError(f"{sample.name} has no {what}")
    if not sample.image:
        raise MediaError(f"{sample.name} names no image")
    places = [root / sample.image, root / sample.dataset / sample.image]
    if sample.image.startswith(_PREFIX):
        places.append(root / sample.image.removeprefix(_PREFIX))
    places = list(dict.fromkeys(places))
    for place in places:
        if place.is_file():
            return place
    raise MediaError(f"no image of {sample.name} at {' or '.join(map(str, places))}: is --images the right folder?")


def problems(
    samples: Sequence[Sample],
    root: Path,
    decode: bool = False,
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> Iterator[str]:
    """Say what is wrong with samples, a sentence each.

    Args:
        samples: all of them.
        root: folder of the images.
        decode: read every pixel, which finds damage that the beginning of a file does not show, and takes minutes.
        tell: told of the progress.
    """
    seen: dict[Path, str | None] = {}
    for number, sample in enumerate(samples, 1):
        try:
            path = image_path(sample, root)
            if path not in seen:
                seen[path] = _damage(path, decode)
            problem = seen[path] and f"{sample.name}: {seen[path]}"
        except MediaError as error:
            problem = str(error)
        if problem:
            yield problem
        tell("checking", number, len(samples))


def _damage(path: Path, decode: bool) -> str | None:
    try:
        if decode:
            read_image(path)
        else:
            with Image.open(path) as image:
                image.verify()
    except MediaError as error:
        return str(error)
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:  # what Pillow's readers raise
        return f"{path} is no readable image ({error})"
    return None


@dataclass(frozen=True)
class ImageQuestion(Question):
    """A sample as it is asked.

    Args:
        sample: which.
        suffix: on a line of its own behind the question; "" is none.
        error: why it cannot be asked, or None.
    """

    sample: Sample
    suffix: str
    error: str | None = None

    @property
    def id(self) -> str:  # type: ignore[override]
        """Set and position."""
        return self.sample.name

    @property
    def text(self) -> str:
        """The question, suffix included."""
        return f"{self.sample.question}\n{self.suffix}" if self.suffix else self.sample.question

    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[ReadMedia]) -> list[dict[str, Any]]:
        """Write the question behind its image."""
        return [{"role": "user", "content": [*items, {"type": "text", "text": self.text}]}]

    def about(self) -> Line:
        """Return what a line says of the sample."""
        about = {name: getattr(self.sample, name) for name in ("set", "id", "image", "question")}
        return {**about, "reference": self.sample.answer}
