"""The page's answers are those of `generate`, side by side, streamed, drawn, and stopped when somebody says so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from prunevid_qwen import PrunedVLM, get_config
from prunevid_qwen.answers.session import OpenVideos
from prunevid_qwen.app.side_by_side import PRUNED, UNPRUNED, Asked, Seen, SideBySide
from prunevid_qwen.app.uploads import CLIPS
from prunevid_qwen.errors import ConfigError, MediaError

CLIP, OTHER = CLIPS / "late_square.mp4", CLIPS / "three_arrive.webm"
QUESTION = "What color is the last object?"
PAPER = get_config("paper")


@pytest.fixture(scope="module")
def model() -> Any:
    return PrunedVLM("bundled", PAPER, video_cache_bytes=2**28)


@pytest.fixture
def answers(model: Any) -> Iterator[SideBySide]:
    model.videos.clear()
    yield SideBySide(model)


def asked(question: str = QUESTION, **more: Any) -> Asked:
    return Asked(question, PAPER, **{"video": CLIP, **more})


def test_both_sides_are_what_generate_answers_and_what_was_kept_is_drawn(model: Any, answers: SideBySide) -> None:
    seen = list(answers.ask(asked(), threading.Event()))
    last = seen[-1]
    assert last.ended and not last.stopped and not last.notes
    for side, config in ((PRUNED, PAPER), (UNPRUNED, get_config("baseline"))):
        stock = model.with_config(config).generate(str(CLIP), QUESTION, return_stats=True)
        assert last.answers[side]["answer"] == last.texts[side] == stock["answer"]
        assert last.answers[side]["stats"]["tokens"] == stock["stats"]["tokens"]
    assert last.overlay is not None and b"ftyp" in last.overlay[:16]
    assert last.page is not None and QUESTION in last.page
    streamed = [each.texts.get(PRUNED, "") for each in seen]
    assert any(text and not each.answers for each, text in zip(seen, streamed, strict=True))  # before it had ended
    assert [each for each in seen if "encoding" in each.doing]


@pytest.mark.nightly
def test_one_side_alone(answers: SideBySide) -> None:
    last = list(answers.ask(asked(compare=False), threading.Event()))[-1]
    assert set(last.answers) == set(last.texts) == {PRUNED}


def test_images_have_a_page_and_no_overlay(answers: SideBySide, tmp_path: Any) -> None:
    paths = []
    for color in ("red", "blue"):
        paths.append(tmp_path / f"{color}.png")
        Image.new("RGB", (112, 112), color).save(paths[-1])
    last = list(answers.ask(asked(video=None, images=tuple(paths)), threading.Event()))[-1]
    assert last.ended and last.page is not None and last.overlay is None
    assert set(last.answers) == {PRUNED, UNPRUNED}


def test_nothing_to_draw_is_said(answers: SideBySide) -> None:
    question = Asked(QUESTION, get_config("baseline"), CLIP)
    last = list(answers.ask(question, threading.Event()))[-1]
    assert last.page is last.overlay is None and last.notes


def stopped_at(answers: SideBySide, word: str, question: Asked) -> Seen:
    """Stop when the page first says a word; return the last that is seen."""
    stop, seen = threading.Event(), Seen()
    for seen in answers.ask(question, stop):
        if word in seen.doing:
            stop.set()
    return seen


@pytest.mark.parametrize("word", [pytest.param("waiting", marks=pytest.mark.nightly), "encoding"])
def test_stop_ends_a_question_wherever_it_is(answers: SideBySide, word: str) -> None:
    question = Asked(QUESTION, PAPER.replace(max_frames=48, vision_chunk_tokens=16), OTHER)
    last = stopped_at(answers, word, question)
    assert last.stopped and last.ended and not last.answers
    assert list(answers.ask(asked(), threading.Event()))[-1].answers  # the next is answered


def test_stop_ends_an_answer_within_a_token(model: Any, answers: SideBySide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.model.generation_config, "min_new_tokens", 40)
    stop = threading.Event()
    tokens: list[str] = []

    def show(telling: Any, **changes: Any) -> None:
        if changes.get("doing", "").startswith("answering"):
            tokens.append(changes["doing"])
            stop.set()  # in the thread that generates, so that no word comes in between
        seen(telling, **changes)

    from prunevid_qwen.app import side_by_side

    seen = side_by_side.Telling.show
    monkeypatch.setattr(side_by_side.Telling, "show", show)
    last = list(answers.ask(asked(), stop))[-1]
    assert last.stopped and not last.answers and 1 <= len(tokens) < 5


def test_who_gives_up_stops_the_question(answers: SideBySide) -> None:
    stop = threading.Event()
    under_way = answers.ask(asked(), stop)
    next(under_way)
    assert not stop.is_set()
    under_way.close()
    assert stop.is_set()


@pytest.mark.nightly
def test_threads_get_each_its_own_answer(model: Any, answers: SideBySide) -> None:
    questions = ["What color is the circle?", "How many objects are there?"]
    found: dict[int, Seen] = {}

    def ask(number: int) -> None:
        found[number] = list(answers.ask(asked(questions[number], compare=False), threading.Event()))[-1]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(questions))]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for number, question in enumerate(questions):
        alone = model.generate(str(CLIP), question, return_stats=True)
        assert found[number].answers[PRUNED]["answer"] == alone["answer"]
        assert found[number].answers[PRUNED]["stats"]["tokens"] == alone["stats"]["tokens"]


def test_an_error_is_raised_where_the_page_is(answers: SideBySide, tmp_path: Any) -> None:
    broken = tmp_path / "a.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(MediaError):
        list(answers.ask(asked(video=broken), threading.Event()))
    for wrong in ({"question": " "}, {"video": None}):
        with pytest.raises(ConfigError):
            asked(**wrong)


def test_warming_up_leaves_no_video_behind(model: Any, answers: SideBySide) -> None:
    answers.warm_up(CLIP)
    assert len(model.videos) == 0


def test_open_videos_are_shared_by_content_and_config(model: Any, tmp_path: Any) -> None:
    videos = OpenVideos(model)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(CLIP.read_bytes())
    first = videos.of(PAPER, CLIP)
    assert videos.of(PAPER, copy) is first and videos.of(PAPER, CLIP) is first
    assert videos.of(get_config("baseline"), CLIP) is not first
    assert videos.of(PAPER, OTHER) is not first and len(videos) == 3
    first.ask(QUESTION)
    assert videos.bytes > sum(each.bytes for each in (first,)) and first.prefix_bytes > 0


def test_those_that_were_asked_last_stay(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = OpenVideos(model)
    monkeypatch.setattr(model.videos, "limit_bytes", 1)
    first = videos.of(PAPER, CLIP)
    assert len(videos) == 1  # whatever its size
    second = videos.of(PAPER, OTHER)
    assert len(videos) == 1 and videos.of(PAPER, OTHER) is second and videos.of(PAPER, CLIP) is not first


def test_a_model_that_holds_no_videos_shares_none(model: Any) -> None:
    with pytest.raises(ConfigError, match="video_cache_bytes"):
        OpenVideos(PrunedVLM("bundled", PAPER))
