"""The batches of a run in the order of its steps, read between them or ahead by processes of their own."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.inputs.frontends import StockFrontend
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.processes.interruption import leave_signals_to_parent, starting_processes
from prunevid_qwen.training.glimpse.batches import TrainingBatch, make_batch
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from prunevid_qwen.training.glimpse.records import BoxData
from prunevid_qwen.training.glimpse.steps import dropout_seeds, samples_of

_AHEAD = 4  # batches that each worker reads ahead


class Reader:
    """Reads batches of one data set for one base model.

    Args:
        recipe: batch sizes, order, ``max_pixels`` and workers.
        data: the records.
        preprocessor: of the base model.
    """

    def __init__(self, recipe: GlimpseRecipe, data: BoxData, preprocessor: Preprocessor | StockFrontend) -> None:
        self.recipe, self.data, self.preprocessor = recipe, data, preprocessor
        self.config = PruneVidConfig(max_pixels=recipe.max_pixels)

    def __getitem__(self, key: tuple[int, int]) -> TrainingBatch:
        """Read what forward ``key[1]`` of step ``key[0]`` sees, with the seeds of its dropout.

        Raises:
            MediaError: a picture cannot be read.
        """
        step, forward = key
        first, size = forward * self.recipe.per_device_batch, self.recipe.per_device_batch
        indices = samples_of(self.recipe, step, len(self.data))[first : first + size]
        return self.some(indices, dropout_seeds(self.recipe, step, forward))

    def some(self, indices: list[int], seeds: list[int] | None = None) -> TrainingBatch:
        """Read the records of these indices.

        Raises:
            MediaError: a picture cannot be read.
        """
        return make_batch([self.data[index] for index in indices], self.preprocessor, self.config, seeds)

    def run(self, keys: list[tuple[int, int]]) -> Iterator[TrainingBatch]:
        """Read the batches of these (step, forward), in order."""
        workers = self.recipe.workers
        loader: Any = DataLoader(
            self,  # type: ignore[arg-type]
            batch_size=None,
            sampler=keys,
            num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=functools.partial(_begin, sharing=torch.multiprocessing.get_sharing_strategy()),
            # a forked one waits for ever for the threads that this process computes with, which a fork leaves behind
            multiprocessing_context="spawn" if workers else None,
        )
        with starting_processes():
            return iter(loader)


def _begin(worker: int, sharing: str) -> None:
    """Make this process a reader, which hands tensors over as its parent does."""
    torch.multiprocessing.set_sharing_strategy(sharing)
    leave_signals_to_parent(worker)


def _as_it_is(batch: Any) -> Any:
    return batch
