"""Where the image of a sample lies, and what is wrong with a set before a model is loaded to find out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from prunevid_qwen.errors import MediaError
from prunevid_qwen.evaluation.visual_cot.records import Sample

_PREFIX = "cot/"  # the benchmark's paths begin with it, whose folder may be the root itself


def image_path(sample: Sample, root: Path) -> Path:
    """Find the image of a sample: under the root as the record has it, else in the folder of its data set.

    Raises:
        MediaError: the record names none, or it is at none of these places.
    """
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
        problem = lacks(sample)
        if problem is None:
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


def lacks(sample: Sample) -> str | None:
    """Say what a record lacks to be asked and scored, or None."""
    for what, text in (("question", sample.question), ("reference answer", sample.answer)):
        if not text:
            return f"{sample.name} has no {what}"
    return None


def _damage(path: Path, decode: bool) -> str | None:
    from PIL import Image, UnidentifiedImageError

    from prunevid_qwen.video import read_image

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
