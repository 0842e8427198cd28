"""What the caller of `pruned` says of each token reaches its own row, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import pruned
from tests.models import MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY

CONFIG = PruneVidConfig(enable_stage1=False, selector="oracle", pruning_layer=1)


def test_marks_choose_for_the_oracle() -> None:
    model, config = tiny_model(), PruneVidConfig(enable_stage1=False, selector="oracle", pruning_layer=1)
    numbers = torch.Generator().manual_seed(5)
    marks = [torch.rand(80, generator=numbers), torch.rand(54 + 32, generator=numbers)]
    for mode in ({}, {"num_beams": 2}):
        with pruned(model, config, marks) as trace:
            model.generate(**make_inputs(RAGGED), max_new_tokens=2, do_sample=False, **mode)
        times = len(trace.samples) // 2
        for number, sample in enumerate(trace.samples):
            assert torch.equal(sample.kept.rep, (marks[number // times] > 0.5).nonzero()[:, 0])


def test_a_merged_token_is_marked_as_its_most_marked_member() -> None:
    config = PruneVidConfig(**TINY).replace(selector="oracle", merger="pool")
    marks = [torch.zeros(80)]
    marks[0][[3, 41]] = 1.0
    with pruned(tiny_model(), config, marks) as trace, torch.no_grad():
        tiny_model()(**make_inputs(ONE_VIDEO))
    sample = trace.samples[0]
    assert sorted(sample.kept.rep.tolist()) == sorted({int(sample.merged.target[i]) for i in (3, 41)})


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (None, r"marks=\[.*got none"),
        ([torch.ones(80)] * 3, "2 prompts.*got 3"),
        ([torch.ones(80), torch.ones(80)], r"prompt 1 has 86 visual tokens.*\[80\]"),
        ([torch.ones(80), None], "prompt 1 has 86 visual tokens.*None"),
    ],
)
def test_marks_that_do_not_fit_are_refused(marks: Any, said: str) -> None:
    config = PruneVidConfig(enable_stage1=False, selector="oracle", pruning_layer=1)
    with pruned(tiny_model(), config, marks), pytest.raises(ConfigError, match=said), torch.no_grad():
        tiny_model()(**make_inputs(RAGGED))


def kept(samples: Any, marks: Any) -> list[Any]:
    with pruned(tiny_model(), CONFIG, marks) as trace, torch.no_grad():
        tiny_model()(**make_inputs(samples))
    return [None if sample.kept is None else sample.kept.rep.tolist() for sample in trace.samples]


def test_marks_of_images_videos_and_texts_of_one_batch() -> None:
    numbers = torch.Generator().manual_seed(1)
    marks = [torch.rand(9 + 32, generator=numbers), torch.rand(54, generator=numbers), None]
    wanted = [None if each is None else (each > 0.5).nonzero()[:, 0].tolist() for each in marks]
    assert kept(MIXED, marks) == wanted


def test_marks_may_be_one_tensor_bools_numpy_or_numbers() -> None:
    chosen = torch.zeros(80)
    chosen[[2, 70]] = 1
    for marks in (chosen[None], [chosen.bool()], [chosen.numpy()], [chosen.tolist()], [chosen.view(4, 4, 5)]):
        assert kept(ONE_VIDEO, marks) == [[2, 70]]
    assert kept(ONE_VIDEO, chosen.numpy()[None]) == [[2, 70]]


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        (torch.ones(80), "1 prompts.*got 80"),
        ([torch.full((80,), 255)], r"marks of prompt 0 lie outside \[0, 1\]"),
        ([torch.full((80,), float("nan"))], r"marks of prompt 0 lie outside \[0, 1\]"),
        ([-torch.ones(80)], r"marks of prompt 0 lie outside \[0, 1\]"),
        (["yes"], r"marks are a list with a tensor \[N\]"),
        (3, r"marks are a list with a tensor \[N\]"),
    ],
)
def test_what_are_no_marks_is_a_sentence(marks: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kept(ONE_VIDEO, marks)


def test_two_marks_are_not_dealt_out_to_four_prompts() -> None:
    """They would be under beams, where rows are repetitions; these rows are not."""
    four = [[("text", 4), ("video", 2, 3, 3), ("text", 6)]] * 4
    with pytest.raises(ConfigError, match=r"4 prompts.*got 2"):
        kept(four, [torch.ones(18)] * 2)
