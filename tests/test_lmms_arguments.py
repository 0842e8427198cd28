"""What stands in lmms-eval's ``--model_args`` and in a task's generation arguments, without lmms-eval."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.config import PruneVidConfig, get_config, option_types
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.lmms_plugin.requests import (
    BY_PROTOCOL,
    KINDS,
    LONGEST,
    placed,
    read_arguments,
    read_generation,
)
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol, protocol_named

# ---- arguments


def test_nothing_given_is_the_paper_under_lmms_evals_own_protocol() -> None:
    found = read_arguments({})
    assert found.pretrained == "bundled" and found.config == get_config("paper") and found.loading == {}
    assert found.protocol == protocol_named("lmms", "mvbench")
    assert (found.workers, found.system, found.prefill, found.max_new_tokens) == (1, None, "", None)


def test_every_option_is_an_argument_under_one_name() -> None:
    options = set(option_types()) - set(BY_PROTOCOL)
    texts = {"dataset", "prompt", "subtitles", "max_new_tokens"}  # the task's
    reading = {field.name for field in dataclasses.fields(EvalProtocol)} - texts
    assert options | reading <= set(KINDS) and not texts & set(KINDS) - {"max_new_tokens"}
    assert {"verbose", "collect_stats"}.isdisjoint(KINDS)  # they say nothing of a run


@pytest.mark.parametrize(
    ("given", "option", "value"),
    [
        ({"keep_ratio": 0.2}, "keep_ratio", 0.2),
        ({"pruning_rate": 0.75}, "keep_ratio", 0.25),
        ({"config": "aggressive", "pruning_rate": 0.5}, "keep_ratio", 0.5),  # the rate replaces the preset's ratio
        ({"config": "aggressive", "tau": "0.7"}, "tau", 0.7),
        ({"enable_stage1": False}, "enable_stage1", False),
        ({"enable_stage1": "off"}, "enable_stage1", False),
        ({"enable_stage1": 0}, "enable_stage1", False),
        ({"pruning_layer": 3}, "pruning_layer", 3),
        ({"pruning_layer": 0.5}, "pruning_layer", 0.5),
        ({"config": "recommended", "pruning_layer": "None"}, "pruning_layer", None),
        ({"vision_chunk_tokens": "none"}, "vision_chunk_tokens", None),
        ({"vision_chunk_tokens": 1e3}, "vision_chunk_tokens", 1000),
        ({"selector": '"uniform"'}, "selector_name", "uniform"),
        ({"position_scheme": "hf"}, "position_scheme", "hf"),
    ],
)
def test_options_of_pruning(given: dict[str, Any], option: str, value: Any) -> None:
    assert getattr(read_arguments(given).config, option) == value


def test_choices_of_reading() -> None:
    given = {"sampler": "fps", "frames": 64, "min_frames": 4, "fps": 1, "min_pixels": 784, "max_pixels": 1568.0}
    found = read_arguments({**given, "total_pixels": "none", "seconds_per_grid": "range", "position_scheme": "hf"})
    assert found.protocol == protocol_named(
        "lmms", "mvbench", sampler="fps", frames=64, min_frames=4, fps=1.0, min_pixels=784, max_pixels=1568,
        total_pixels=None, seconds_per_grid="range", position_scheme="hf",
    )  # fmt: skip


def test_texts_lose_their_quotes_and_gain_line_breaks() -> None:
    found = read_arguments({"system": '"Watch, carefully.\\n"', "prefill": "Best option:(", "revision": 1234})
    assert found.system == "Watch, carefully.\n" and found.prefill == "Best option:("
    assert found.loading == {"revision": "1234"}
    assert read_arguments({"system": "none", "max_new_tokens": 7}).max_new_tokens == 7


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep_ration": 0.4}, "got 'keep_ration'; did you mean 'keep_ratio'"),
        ({"max_frames": 16}, "takes 'frames' for what you call 'max_frames'"),
        ({"video_sampling": "fps"}, "takes 'sampler'"),
        ({"model_path": "x"}, "takes 'pretrained'"),
        ({"config": "papr"}, "did you mean 'paper'"),
        ({"keep_ratio": "much"}, "keep_ratio is a number, got 'much'"),
        ({"frames": 16.5}, "frames is a whole number, got '16.5'"),
        ({"frames": 15}, "frames is even"),
        ({"enable_stage1": "perhaps"}, "enable_stage1 is true or false, got 'perhaps'"),
        ({"enable_stage1": 2}, "enable_stage1 is true or false, got '2'"),
        ({"keep_ratio": True}, "keep_ratio is a number, got 'True'"),
        ({"revision": 1e5}, 'put it into quotes (revision="...")'),
        ({"workers": -1}, "workers is a whole number of at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is a whole number of at least 1"),
        ({"keep_ratio": 0.4, "pruning_rate": 0.6}, "say the same thing twice"),
        ({"device": "cpu", "device_map": "auto"}, "device and device_map say the same thing twice"),
        ({"min_pixels": 1000000, "max_pixels": 784}, "max_pixels=784 is below min_pixels=1000000"),
    ],
)
def test_what_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_arguments(given)
    assert said in str(error.value)


def test_a_config_file_says_nothing_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    PruneVidConfig(tau=0.5, max_frames=8).to_json(path)
    with pytest.raises(ConfigError, match=r"sets max_frames=8, but how media are read .* pass frames beside it"):
        read_arguments({"config": str(path)})
    PruneVidConfig(tau=0.5).to_json(path)
    assert read_arguments({"config": str(path), "keep_ratio": 0.3}).config == PruneVidConfig(tau=0.5, keep_ratio=0.3)


def test_each_process_has_a_device_of_its_own() -> None:
    assert placed({"device": "cuda:1"}, 1, "cuda") == {"device": "cuda:1"}
    assert placed({"device_map": "auto"}, 1, "cuda") == {"device_map": "auto"}
    assert placed({"dtype": "bfloat16"}, 8, "cuda:3") == {"dtype": "bfloat16", "device": "cuda:3"}
    assert placed({"device": "cuda"}, 8, "cuda:3") == {"device": "cuda:3"}
    for asked, own in (("cuda:0", "cuda:3"), ("cpu", "cuda:3"), ("cuda", "cpu")):
        with pytest.raises(ConfigError, match="in each of 8 processes"):
            placed({"device": asked}, 8, own)
    with pytest.raises(ConfigError, match="device_map='auto' spreads one model"):
        placed({"device_map": "auto"}, 8, "cuda:3")


# ---- generation arguments

MVBENCH = {
    "max_new_tokens": 16, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n\n"],
}  # fmt: skip


def test_what_mvbench_asks_for_is_greedy() -> None:
    found = read_generation(MVBENCH)
    assert found.arguments == {"max_new_tokens": 16, "num_beams": 1, "do_sample": False}
    assert found.until == ("\n\n",)
    assert read_generation(MVBENCH, 3).arguments["max_new_tokens"] == 3
    assert found == read_generation(dict(reversed(MVBENCH.items())))


@pytest.mark.parametrize(
    ("given", "sampling"),
    [
        (None, {"do_sample": False}),
        ({"do_sample": True, "temperature": 0}, {"do_sample": False}),
        ({"do_sample": False, "temperature": 0.7}, {"do_sample": False}),
        ({"temperature": 0.2, "top_p": 0.9, "top_k": 5},
         {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "top_k": 5}),
        ({"do_sample": True}, {"do_sample": True, "temperature": 1.0}),
        ({"num_beams": 3, "repetition_penalty": 1.2, "image_aspect_ratio": "original", "n": 1},
         {"num_beams": 3, "repetition_penalty": 1.2, "do_sample": False}),
        ({"max_gen_toks": 9}, {"max_new_tokens": 9, "do_sample": False}),
    ],
)  # fmt: skip
def test_what_else_tasks_ask_for(given: dict[str, Any] | None, sampling: dict[str, Any]) -> None:
    assert read_generation(given).arguments == {"max_new_tokens": LONGEST, "num_beams": 1, **sampling}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperatur": 1}, "did you mean 'temperature'"),
        ({"seed": 0}, "got 'seed'"),
        ({"n": 4}, "generation argument n is 1 here, got 4"),
        ({"temperature": -1}, "temperature is a number of at least 0"),
        ({"until": [3]}, "until is a text or a list of texts"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is a whole number"),
    ],
)
def test_what_cannot_be_honoured_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_generation(given)


@pytest.mark.parametrize(
    ("until", "text", "cut"),
    [
        ("\n\n", "C\n\nbecause", "C"),
        (["x", "b"], "abcx", "a"),  # the first in the text, not in the list
        (["", "z"], "abc", "abc"),
        (None, "abc", "abc"),
        ("a", "abc", ""),
    ],
)
def test_until_cuts(until: Any, text: str, cut: str) -> None:
    assert read_generation({"until": until}).cut(text) == cut
