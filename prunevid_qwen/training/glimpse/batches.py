"""From records to what the stock model takes: prompts, and the answers that follow them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.inputs.frontends import StockFrontend
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.training.glimpse.box_masks import Grid
from prunevid_qwen.training.glimpse.records import BoxRecord
from prunevid_qwen.video.picture import Picture

_END_OF_TURN = "<|im_end|>\n"


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Some samples: a prompt about a picture or video, its answer, and which visual tokens matter to it.

    Args:
        inputs: prompts as `Preprocessor.batch` makes them, padded on the left.
        answers: for each sample [A] int64 ids that follow its prompt, which are learnt.
        masks: for each sample [N] bool over its visual tokens: those that matter.
        seeds: for each sample what its dropout is drawn from.
    """

    inputs: dict[str, Tensor]
    answers: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    seeds: tuple[int, ...]

    def to(self, device: torch.device | str) -> TrainingBatch:
        """Return the same batch with its tensors on ``device``."""
        return replace(
            self,
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            answers=tuple(each.to(device) for each in self.answers),
            masks=tuple(each.to(device) for each in self.masks),
        )


def make_batch(
    records: Sequence[BoxRecord],
    preprocessor: Preprocessor | StockFrontend,
    config: PruneVidConfig,
    seeds: Sequence[int] | None = None,
) -> TrainingBatch:
    """Read the media of some records and write prompts, answers and masks.

    Args:
        records: at least one, each with a picture or video.
        preprocessor: of the base model; it pads pictures to squares if it is the library's.
        config: how large pictures may be (``max_pixels``).
        seeds: for each record what its dropout is drawn from; None counts from 0.

    Raises:
        MediaError: a picture or video cannot be read.
        ConfigError: a record has no answer.
        UnsupportedError: the library's processor does not make one square grid of a picture.
    """
    if isinstance(preprocessor, StockFrontend):
        media, end = None, str(preprocessor.tokenizer.eos_token)
    else:
        media, end = preprocessor.media, _END_OF_TURN
    samples = [preprocessor.sample(record.messages(media), config) for record in records]
    inputs = preprocessor.batch(samples)
    answers, masks = [], []
    for record, sample, row in zip(records, samples, inputs["input_ids"], strict=True):
        said = record.answer + end * record.turn_ends
        ids = preprocessor.tokenizer(said, add_special_tokens=False)["input_ids"]
        if not record.answer.strip() or not ids:
            raise ConfigError(f"record {record.id} has no answer to learn: the checker lists such records")
        answers.append(torch.tensor(ids))
        if isinstance(preprocessor, StockFrontend):
            (picture,) = sample.media
            assert isinstance(picture, Picture)
            mark = preprocessor.tokenizer.convert_tokens_to_ids(preprocessor.marks["image"])
            made = record.mask([_square(int((row == mark).sum()), preprocessor.model_type)], picture)
        else:
            merge = preprocessor.media.merge_size
            grids = [medium.grid[0].tolist() for medium in sample.media]  # type: ignore[union-attr]
            made = record.mask([(t, h // merge, w // merge) for t, h, w in grids])
        masks.append(torch.from_numpy(made))
    given = tuple(range(len(records))) if seeds is None else tuple(seeds)
    return TrainingBatch(inputs, tuple(answers), tuple(masks), given)


def _square(tokens: int, family: str) -> Grid:
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UnsupportedError(
            f"the processor of a {family} model makes {tokens} tokens of a picture padded to a square, which are no "
            "square grid: a predictor can be trained for LLaVA-1.5 and Qwen-VL"
        )
    return 1, side, side
