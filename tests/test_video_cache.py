"""The cache of encoded videos: what is the same video, what is not, and how much is held."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen import ConfigError, PruneVidQwen25VL, get_config
from prunevid_qwen.answers.session import VideoCache
from prunevid_qwen.moving_shapes import make_scene, write_video
from prunevid_qwen.moving_shapes.drawing import render
from tests.api_model import ASKED, model
from tests.receipts import differences

__all__ = ["model"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_video(tmp_path / "v.mp4", render(make_scene(3), 16), 4)


@pytest.fixture
def cached(model: PruneVidQwen25VL) -> Any:
    twin = model.with_config(model.config)
    twin.videos = VideoCache(2**30)
    return twin


def hit(cached: Any, source: Any, question: Any = ASKED, **more: Any) -> bool:
    answer = cached.generate(source, question, max_new_tokens=1, **more)
    facts = (answer[0] if isinstance(answer, list) else answer)["stats"]["video_cache"]
    assert facts["bytes"] == cached.videos.bytes <= facts["limit_bytes"] and facts["videos"] == len(cached.videos)
    return bool(facts["hit"])


def test_a_second_call_is_answered_alike_and_not_encoded(cached: Any, model: PruneVidQwen25VL, path: Path) -> None:
    ran: list[int] = []
    handle = model.model.model.visual.blocks[0].register_forward_hook(lambda *_: ran.append(1))
    try:
        first = cached.generate(path, ASKED, max_new_tokens=3, keep_map=True)
        once = len(ran)
        second = cached.generate(path, "what shape ?", max_new_tokens=3, keep_map=True)
        assert len(ran) == once > 0
    finally:
        handle.remove()
    for answer, question in ((first, ASKED), (second, "what shape ?")):
        fresh = model.generate(path, question, max_new_tokens=3, keep_map=True)
        assert answer["answer"] == fresh["answer"] and answer["stats"]["tokens"] == fresh["stats"]["tokens"]
        assert [step.group.tolist() for step in answer.kept.steps] == [s.group.tolist() for s in fresh.kept.steps]
        assert not list(differences(answer["stats"])) and "session" not in answer["stats"]
    assert "video_cache" not in fresh["stats"]


def test_a_copied_or_touched_file_is_the_same_video_and_a_changed_one_is_not(cached: Any, path: Path) -> None:
    assert not hit(cached, path) and hit(cached, path) and hit(cached, str(path))
    copied = path.with_name("w.mp4")
    shutil.copy(path, copied)
    os.utime(path, ns=(1, 1))
    assert hit(cached, copied) and hit(cached, path)
    write_video(path, render(make_scene(5), 16), 4)
    assert not hit(cached, path) and hit(cached, copied)


def test_the_range_and_the_reading_count(cached: Any, path: Path) -> None:
    assert not hit(cached, path) and not hit(cached, path, start=1.0) and hit(cached, path, start=1.0)
    fewer = cached.with_config(cached.config.replace(max_frames=4))
    assert fewer.videos is cached.videos and not hit(fewer, path) and hit(fewer, path) and hit(cached, path)
    copies = cached.with_config(cached.config.replace(**{"reading.reuse_threshold": 8.0}))
    assert not hit(copies, path)
    other = cached.with_config(get_config("fastv").replace(max_frames=cached.config.max_frames))
    assert hit(other, path), "another decoder's pruning of the same features"


def test_frames_in_memory_and_lists_of_questions(cached: Any) -> None:
    frames = render(make_scene(3), 8)
    assert not hit(cached, frames) and hit(cached, frames.copy()) and not hit(cached, frames[::-1].copy())
    assert hit(cached, frames, [ASKED, "what shape ?"])


def test_other_weights_of_the_encoder_are_another_video(cached: Any, path: Path) -> None:
    assert not hit(cached, path)
    weight = next(cached.model.model.visual.parameters())
    with torch.no_grad():
        weight.add_(0.5)
    try:
        assert not hit(cached, path)
    finally:
        with torch.no_grad():
            weight.sub_(0.5)


def test_the_last_used_are_held_up_to_the_limit(cached: Any, tmp_path: Path) -> None:
    paths = [write_video(tmp_path / f"{seed}.mp4", render(make_scene(seed), 16), 4) for seed in range(3)]
    hit(cached, paths[0])
    cached.videos.limit_bytes = 2 * cached.videos.bytes
    assert not hit(cached, paths[1]) and hit(cached, paths[0]) and not hit(cached, paths[2])
    assert hit(cached, paths[0]) and hit(cached, paths[2]) and not hit(cached, paths[1])
    cached.videos.clear()
    assert len(cached.videos) == cached.videos.bytes == 0


def test_sessions_use_it_and_go_on_apart(cached: Any, path: Path) -> None:
    with cached.open(path) as one, cached.open(path) as other:
        one.chat(ASKED, max_new_tokens=1)
        stats = other.ask(ASKED, max_new_tokens=1)["stats"]
        assert other.history == [] and stats["session"]["vision"] == "reused" and stats["session"]["prefix"] == "made"
        assert stats["video_cache"]["hit"]
    assert hit(cached, path), "a closed session takes nothing from the cache"


def test_calls_that_share_no_video_go_past_it(cached: Any, model: PruneVidQwen25VL, path: Path) -> None:
    plain = cached.generate([path, path], [ASKED, ASKED], max_new_tokens=1)
    assert "video_cache" not in plain[0]["stats"] and len(cached.videos) == 0
    going = cached.generate(path, ASKED, max_new_tokens=1, return_dict_in_generate=True)
    assert "past_key_values" in going and len(cached.videos) == 0
    assert model.videos is None


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1"])
def test_a_limit_is_a_number_of_bytes(limit: Any) -> None:
    with pytest.raises(ConfigError):
        VideoCache(limit)
