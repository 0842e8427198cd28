"""What happens in step s of a training run, as pure functions: its samples, its learning rate, its dropout.

Nothing here depends on what was done before, so a run that was cut off goes on as if it had not been, and nothing but
the order of a sum depends on how many processes share the work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe

_ORDER, _DROPOUT = 1, 2  # keep draws of one seed apart


def count_steps(recipe: GlimpseRecipe, records: int) -> int:
    """Return the updates of a whole run over so many records."""
    if recipe.steps is not None:
        return recipe.steps
    return max(1, math.ceil(recipe.epochs * records / recipe.effective_batch))


def samples_of(recipe: GlimpseRecipe, step: int, records: int) -> list[int]:
    """Return which records a step sees: ``effective_batch`` indices, every record once before any is seen again.

    Args:
        recipe: its seed and batch.
        step: from 0.
        records: in the data set, at least 1.
    """
    first = step * recipe.effective_batch
    places = range(first, first + recipe.effective_batch)
    return [int(_order(recipe.seed, place // records, records)[place % records]) for place in places]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, records: int) -> np.ndarray:
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(records)


def forwards_of(recipe: GlimpseRecipe, rank: int, processes: int) -> list[int]:
    """Return which forwards of every step a process makes; forward f is the f-th ``per_device_batch`` of its samples.

    Raises:
        ConfigError: the processes cannot share a step equally.
    """
    forwards = recipe.effective_batch // recipe.per_device_batch
    if forwards % processes:
        raise ConfigError(
            f"effective_batch={recipe.effective_batch} is {forwards} forwards of "
            f"per_device_batch={recipe.per_device_batch}, which {processes} processes cannot share equally: choose an "
            f"effective_batch that is a multiple of {recipe.per_device_batch * processes}"
        )
    return list(range(rank, forwards, processes))


def schedule(recipe: GlimpseRecipe, begin: int, steps: int, rank: int, processes: int) -> Iterator[tuple[int, int]]:
    """Yield (step, forward) of all that a process has to do from step ``begin`` on."""
    own = forwards_of(recipe, rank, processes)
    return ((step, forward) for step in range(begin, steps) for forward in own)


def dropout_seeds(recipe: GlimpseRecipe, step: int, forward: int) -> list[int]:
    """Return what the dropout of each sample of a forward is drawn from, in [0, 2^63)."""
    first = forward * recipe.per_device_batch
    places = range(first, first + recipe.per_device_batch)
    drawn = (
        np.random.SeedSequence([_DROPOUT, recipe.seed, step, place]).generate_state(1, np.uint64) for place in places
    )
    return [int(state[0]) >> 1 for state in drawn]


def learning_rate(recipe: GlimpseRecipe, step: int, steps: int) -> float:
    """Return the learning rate of a step: from 0 linearly to its peak, then along a cosine to 0.

    As transformers' cosine schedule, which the authors use: the first step of a warm-up has the rate 0.
    """
    warmup = math.ceil(recipe.warmup_ratio * steps)
    if step < warmup:
        return recipe.learning_rate * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return recipe.learning_rate * max(0.0, 0.5 * (1 + math.cos(math.pi * done)))
