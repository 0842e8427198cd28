"""From records to what the stock model takes: prompts, and the answers that follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.training.glimpse.records import BoxRecord

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
    preprocessor: Preprocessor,
    config: PruneVidConfig,
    seeds: Sequence[int] | None = None,
) -> TrainingBatch:
    """Read the media of some records and write prompts, answers and masks.

    Args:
        records: at least one, each with a picture or video.
        preprocessor: of the base model.
        config: how large pictures may be (``max_pixels``).
        seeds: for each record what its dropout is drawn from; None counts from 0.

    Raises:
        MediaError: a picture or video cannot be read.
        ConfigError: a record has no answer.
    """
    samples = [preprocessor.sample(record.messages(preprocessor.media), config) for record in records]
    answers, masks = [], []
    for record, sample in zip(records, samples, strict=True):
        said = record.answer + _END_OF_TURN * record.turn_ends
        ids = preprocessor.tokenizer(said, add_special_tokens=False)["input_ids"]
        if not record.answer.strip() or not ids:
            raise ConfigError(f"record {record.id} has no answer to learn: the checker lists such records")
        answers.append(torch.tensor(ids))
        merge = preprocessor.media.merge_size
        grids = [medium.grid[0].tolist() for medium in sample.media]  # type: ignore[union-attr]
        masks.append(torch.from_numpy(record.mask([(t, h // merge, w // merge) for t, h, w in grids])))
    given = tuple(range(len(records))) if seeds is None else tuple(seeds)
    return TrainingBatch(preprocessor.batch(samples), tuple(answers), tuple(masks), given)
