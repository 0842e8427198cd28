"""What somebody does on the page of `prunevid app`, done in a browser: ask, stop, upload, choose a method."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from prunevid_qwen.app.uploads import CLIPS
from research.serve_load import serving
from tests.browser.conftest import EXAMPLE, ITS_ANSWER, Page

pytestmark = pytest.mark.nightly

Opened = Callable[..., Any]


def status(tab: Any, words: str) -> None:
    """Wait until the page says something."""
    tab.locator("#status").get_by_text(re.compile(words)).wait_for()


def example(tab: Any) -> None:
    tab.get_by_text(EXAMPLE).first.click()
    tab.locator("#video video").wait_for()


def ask(tab: Any, question: str) -> None:
    tab.locator("#question textarea").fill(question)
    tab.locator("#ask").click()


def turn_to(tab: Any, name: str) -> None:
    tab.get_by_role("tab", name=name).press("Enter")  # a click may meet the page while it scrolls and grows


def value(tab: Any, name: str) -> str:
    return str(tab.locator(f"#{name} textarea").input_value())


def film(path: Path, seconds: int, side: int = 224, a_second: int = 2) -> Path:
    """Write a video in which a square moves, so many frames a second."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=Fraction(a_second))
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        for number in range(a_second * seconds):
            picture = np.zeros((side, side, 3), np.uint8)
            picture[number % (side - 30) :][:30, 40:70] = (250, 20, 20)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def upload(tab: Any, where: str, *paths: Path) -> None:
    tab.locator(f"#{where} input[type=file]").set_input_files([str(each) for each in paths])


def test_an_example_is_answered_with_and_without_pruning_and_drawn(open_tab: Opened) -> None:
    tab = open_tab()
    example(tab)
    assert value(tab, "question") == EXAMPLE
    tab.locator("#ask").click()
    status(tab, "Done")
    assert [value(tab, side) for side in ("pruned", "unpruned")] == [ITS_ANSWER, ITS_ANSWER]
    overlay = tab.locator("#overlay video")
    overlay.wait_for()
    overlay.evaluate("film => film.play()")
    tab.wait_for_function("document.querySelector('#overlay video').currentTime > 0")  # it plays
    assert overlay.evaluate("film => film.videoWidth") > 0
    inside = tab.frame_locator("#kept iframe")
    assert inside.locator("body").inner_text().strip()
    assert "mean of the layers" in tab.locator("#receipt").inner_text()
    assert "vision encoder" in tab.locator("#times").inner_text()
    turn_to(tab, "Receipt as JSON")
    assert "layer_average" in tab.locator("#receipt-json").inner_text()


def test_a_second_question_finds_the_video_encoded(open_tab: Opened) -> None:
    tab = open_tab()
    example(tab)
    ask(tab, "What color is the circle?")
    status(tab, "Done")
    turn_to(tab, "Questions so far")
    ask(tab, "How many objects are there?")
    for question in ("How many objects are there?", "What color is the circle?"):
        tab.wait_for_function("said => document.querySelector('#history').innerText.includes(said)", arg=question)
    status(tab, "encoded before")


def test_a_file_that_is_no_video_gets_its_sentence(open_tab: Opened, tmp_path: Path) -> None:
    broken = tmp_path / "holiday.mp4"
    broken.write_bytes((CLIPS / "late_square.mp4").read_bytes()[:200])
    tab = open_tab()
    upload(tab, "video", broken)
    tab.locator("#video video").wait_for(state="attached")
    ask(tab, "What happens?")
    alert = tab.locator("#status [role=alert]")
    alert.wait_for()
    assert "holiday.mp4" in alert.inner_text() and str(tmp_path) not in alert.inner_text()


def test_a_video_that_is_too_long_gets_its_sentence(open_tab: Opened, tmp_path: Path) -> None:
    tab = open_tab()
    upload(tab, "video", film(tmp_path / "long.mp4", 90, side=64))
    tab.locator("#video video").wait_for()
    ask(tab, "What happens?")
    status(tab, "90 s.*at most 60 s")


def test_nothing_to_ask_about_and_no_question_are_said(open_tab: Opened) -> None:
    tab = open_tab()
    ask(tab, "What happens?")
    status(tab, "error: nothing to ask about")
    example(tab)
    ask(tab, "  ")
    status(tab, "error: no question")


def test_two_tabs_are_answered_each_its_own_question(open_tab: Opened) -> None:
    tabs = [open_tab(), open_tab()]
    for tab, question in zip(tabs, ("What color is the circle?", "How many objects are there?"), strict=True):
        example(tab)
        ask(tab, question)
    for tab, answer in zip(tabs, ("white", "three"), strict=True):
        status(tab, "Done")
        assert value(tab, "unpruned") == answer


def test_stop_ends_a_question_and_the_next_is_answered(open_tab: Opened, tmp_path: Path) -> None:
    tab = open_tab()
    upload(tab, "video", film(tmp_path / "slow.mp4", 60, a_second=8))
    tab.locator("#video video").wait_for()
    tab.locator("#max_frames input").fill("400")
    tab.locator("#max_frames input").press("Tab")
    ask(tab, "What happens?")
    status(tab, r"encoding, \d+/400 frames")
    tab.locator("#stop").click()
    status(tab, "Stopped")
    tab.locator("#max_frames input").fill("4")
    tab.locator("#max_frames input").press("Tab")
    ask(tab, "What color is the circle?")
    status(tab, "Done")


def test_images_are_asked_about(open_tab: Opened, tmp_path: Path) -> None:
    paths = [tmp_path / "red.png", tmp_path / "blue.png"]
    for path in paths:
        Image.new("RGB", (128, 128), path.stem).save(path)
    tab = open_tab()
    turn_to(tab, "Images")
    upload(tab, "images", *paths)
    tab.locator("#images img").nth(1).wait_for()
    ask(tab, "What color is it?")
    status(tab, "Done")
    assert value(tab, "pruned") and value(tab, "unpruned")
    assert tab.locator("#kept iframe").count() == 1


def test_the_trained_selector_is_a_preset(open_tab: Opened) -> None:
    tab = open_tab()
    example(tab)
    tab.locator("#preset input").click()
    tab.get_by_role("option", name="glimpse", exact=True).click()
    tab.locator("#ask").click()
    status(tab, "Done")
    assert "glimpse" in tab.locator("#receipt").inner_text()
    assert value(tab, "unpruned") == ITS_ANSWER


def test_a_budget_that_is_moved_is_kept_to(open_tab: Opened) -> None:
    tab = open_tab()
    example(tab)
    tab.locator("#selector-keep_ratio input[type=number]").fill("1")
    tab.locator("#selector-keep_ratio input[type=number]").press("Tab")
    tab.locator("#ask").click()
    status(tab, "Done")
    cells = [each.strip() for each in tab.locator("#receipt").inner_text().splitlines() if each.strip()]
    merged, selected = (cells[number + 1] for number, cell in enumerate(cells) if cell.startswith("after "))
    assert merged == selected != cells[cells.index("unpruned") + 1]  # it takes nothing from what the merger left


def test_a_phone_needs_no_scrolling_sideways(open_tab: Opened) -> None:
    tab = open_tab(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    example(tab)
    tab.locator("#ask").click()
    status(tab, "Done")
    tab.locator("#overlay video").wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_uploads_lie_in_the_folder_that_goes_with_the_server(served: Page, open_tab: Opened, tmp_path: Path) -> None:
    tab = open_tab()
    upload(tab, "video", film(tmp_path / "mine.mp4", 2))
    tab.locator("#video video").wait_for()
    assert [each.name for each in served.temporary.rglob("mine.mp4")]  # `serve` sees that nothing is left of it


def test_a_page_in_front_of_a_running_server(open_tab: Opened, serve: Callable[..., Page]) -> None:
    with serving("--allow_option", "tau") as server:
        tab = open_tab(serve("--server", server.url).url)
        example(tab)
        tab.locator("#ask").click()
        status(tab, "Done")
        assert [value(tab, side) for side in ("pruned", "unpruned")] == [ITS_ANSWER, ITS_ANSWER]
        tab.locator("#overlay video").wait_for()
        assert "mean of the layers" in tab.locator("#receipt").inner_text()
        assert server.health()["media"] == 1  # both answers are about one video
