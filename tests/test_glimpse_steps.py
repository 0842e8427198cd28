"""What a step of a glimpse training is: pure functions of the recipe and the step's number."""

import numpy as np
import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.training.glimpse.figures import Figures
from prunevid_qwen.training.glimpse.losses import MaskCounts
from prunevid_qwen.training.glimpse.steps import count_steps, dropout_seeds, forwards_of, learning_rate, samples_of
from tests.glimpse_training import small


def test_a_step_is_the_same_samples_for_any_number_of_processes() -> None:
    recipe = small(effective_batch=12, per_device_batch=2)
    for processes in (1, 2, 3, 6):
        forwards = [f for rank in range(processes) for f in forwards_of(recipe, rank, processes)]
        assert sorted(forwards) == list(range(6))
    with pytest.raises(ConfigError, match=r"4 processes cannot share equally: .* multiple of 8"):
        forwards_of(recipe, 0, 4)
    seen = [samples_of(recipe, step, 30) for step in range(5)]
    assert seen == [samples_of(recipe, step, 30) for step in range(5)]
    flat = [index for step in seen for index in step]
    assert sorted(flat[:30]) == list(range(30)) == sorted(flat[30:]) and flat[:30] != flat[30:]
    assert samples_of(small(seed=1, effective_batch=12), 0, 30) != seen[0]
    seeds = [seed for step in range(9) for forward in range(6) for seed in dropout_seeds(recipe, step, forward)]
    assert len(set(seeds)) == 9 * 12 and min(seeds) >= 0 and max(seeds) < 2**63


@pytest.mark.parametrize(("steps", "warmup"), [(40, 0.1), (7, 0.0), (13, 0.5)])
def test_the_learning_rate_is_that_of_the_published_schedule(steps: int, warmup: float) -> None:
    recipe = small(steps=steps, warmup_ratio=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.learning_rate)
    theirs = get_cosine_schedule_with_warmup(optimizer, int(np.ceil(warmup * steps)), steps)
    for step in range(steps):
        assert learning_rate(recipe, step, steps) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_epochs_are_counted_in_records() -> None:
    assert count_steps(small(steps=None, effective_batch=16), 20_000) == 1250  # the published run
    assert count_steps(small(steps=None, epochs=0.5), 7) == 2
    assert count_steps(small(steps=None, epochs=0.01), 7) == 1


def test_figures_of_parts_add_up() -> None:
    parts = [Figures(2, 4.0, 1.0, 0.5, MaskCounts(hit=3, spare=1, missed=2, tokens=20)), Figures(1, 5.0, 0.5, 0.1)]
    both = Figures.of([sum(pair) for pair in zip(*(part.numbers() for part in parts), strict=True)])
    assert both.line()["lm"] == 3.0 and both.line()["precision"] == 0.75 and both.samples == 3
