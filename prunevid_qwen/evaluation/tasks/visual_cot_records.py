"""Records of Visual-CoT (Shao et al., arXiv 2403.16999) in the two forms in which they are passed around.

The benchmark's files hold ``image: [path, "path###[x1, y1, x2, y2]"]`` and ``conversations``, whose first human turn
is the question with a request for a box behind it, and whose last model turn is the reference answer. Files made for
training hold ``question, answer, image, dataset`` (Visual-CoT's metadata, one JSON a line). Boxes are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets.annotations import json_lines, json_list
from prunevid_qwen.evaluation.datasets.check import damage
from prunevid_qwen.evaluation.engine.storing import Progress
from prunevid_qwen.evaluation.engine.task import Line, TaskQuestion
from prunevid_qwen.evaluation.engine.task_media import ReadMedia

BOX_REQUEST = "Please provide the bounding box coordinate of the region that can help you answer the question better."
"""What the benchmark's files append to every question; a model that is asked for the answer alone must not see it."""

_PREFIX = "cot/"  # the benchmark's image paths begin with it, whose folder may be the root itself


@dataclass(frozen=True)
class Sample(TaskQuestion):
    """One question about one image; what a record lacks is empty here, and `problems` names it."""

    set: str  # name of the file it stands in, without the suffix: a row of the table
    number: int  # position in that file, from 0
    image: str  # path as the record has it
    question: str  # without placeholder and request for a box
    answer: str  # the reference
    dataset: str = ""  # where the image comes from ("v7w", "docvqa"): the folder of its images
    suffix: str = ""  # asked on a line of its own behind the question
    error: str | None = None  # why it cannot be asked

    @property
    def id(self) -> str:  # type: ignore[override]
        """Set and position, such as "gqa/17"."""
        return f"{self.set}/{self.number}"

    @property
    def text(self) -> str:
        """The question, suffix included."""
        return f"{self.question}\n{self.suffix}" if self.suffix else self.question

    def messages(self, items: Sequence[dict[str, Any]], media: Sequence[ReadMedia]) -> list[dict[str, Any]]:
        """Write the question behind its image."""
        return [{"role": "user", "content": [*items, {"type": "text", "text": self.text}]}]

    def about(self) -> Line:
        """Return what a line says of the sample."""
        shown = {"image": self.image, "question": self.question, "reference": self.answer}
        return {"set": self.set, "id": self.number, **shown}


def data_files(given: Sequence[Path]) -> list[Path]:
    """List the files that are meant: each a file, or a folder, which stands for its ``*.json`` and ``*.jsonl``.

    A `MediaError` or `ConfigError` says that there is none, or that two would give sets of one name.
    """
    found: dict[Path, None] = {}
    for path in given:
        inside = [path] if path.is_file() else sorted(e for e in path.glob("*") if e.suffix in (".json", ".jsonl"))
        if not inside:
            raise MediaError(f"no data at {path}: --data takes a file, or a folder that holds .json or .jsonl files")
        found |= dict.fromkeys(inside)
    if not found:
        raise ConfigError("nothing to ask: pass --data FILE, or the folder of the sets")
    for path, other in combinations(found, 2):
        if path.stem == other.stem:
            raise ConfigError(f"{path} and {other} would both be the set {path.stem!r}: rename one of them")
    return list(found)


def read_samples(path: Path) -> list[Sample]:
    """Read the samples of a file, a JSON list or an object a line; a `ConfigError` says what it is instead."""
    is_list = path.read_text(encoding="utf-8").lstrip().startswith("[")
    records = json_list(path) if is_list else json_lines(path)
    if not records:
        raise ConfigError(f"{path} holds no records: expected a list of them, or one a line")
    return [_sample(path, number, record) for number, record in enumerate(records)]


def _sample(path: Path, number: int, record: Any) -> Sample:
    keys = record.keys() if isinstance(record, dict) else ()
    if "conversations" in keys:
        said = [(turn.get("from"), _text(turn.get("value"))) for turn in record["conversations"]]
        question = next((text for who, text in said if who == "human"), "")
        answer = next((text for who, text in reversed(said) if who == "gpt"), "")
    elif "question" in keys:
        question, answer = _text(record["question"]), _text(record.get("answer"))
    else:
        raise ConfigError(
            f"{path}, record {number} ({', '.join(keys) or type(record).__name__}) is of no known form: expected image "
            "and conversations, or image, question and answer"
        )
    image = record.get("image") or ""
    if not isinstance(image, str):  # the second is the same with a box
        image = image[0]
    question = question.replace("<image>", "").strip().removesuffix(BOX_REQUEST).strip()
    return Sample(path.stem, number, _text(image).partition("###")[0], question, answer, _text(record.get("dataset")))


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def image_path(sample: Sample, root: Path) -> Path:
    """Find the image of a sample under the root; a `MediaError` says where it is not, or what its record lacks."""
    needed = {"no question": sample.question, "no reference answer": sample.answer, "no image": sample.image}
    for lacks, text in needed.items():
        if not text:
            raise MediaError(f"{sample.id} has {lacks}")
    places = [root / sample.image, root / sample.dataset / sample.image, root / sample.image.removeprefix(_PREFIX)]
    for place in places:
        if place.is_file():
            return place
    tried = " or ".join(map(str, dict.fromkeys(places)))
    raise MediaError(f"no image of {sample.id} at {tried}: is --images the right folder?")


def problems(
    samples: Sequence[Sample], root: Path, decode: bool = False, tell: Progress = lambda *_: None
) -> Iterator[str]:
    """Say what is wrong with samples, a sentence each; ``decode`` reads every pixel, which takes minutes."""
    seen: dict[Path, tuple[str, str] | None] = {}
    for number, sample in enumerate(samples, 1):
        try:
            path = image_path(sample, root)
            if path not in seen:
                seen[path] = damage("image", path, decode)
            if found := seen[path]:
                yield f"{sample.id}: {path}: {found[1]}"
        except MediaError as error:
            yield str(error)
        tell("checking", number, len(samples))
