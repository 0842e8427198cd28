"""Pictures of what was kept: pixels of hand-made maps, the data behind a page, and what a page must not hold."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from prunevid_qwen import Answer, ConfigError
from prunevid_qwen.cli.app import main
from prunevid_qwen.cli.ask import PICTURES
from prunevid_qwen.kept import Kept, KeptMedium, KeptStep
from prunevid_qwen.moving_shapes import write_video
from prunevid_qwen.pictures import SUFFIXES, picture
from prunevid_qwen.pictures.sheet import color_of, drawn
from prunevid_qwen.pictures.thumbnails import ShownPosition, shown_positions, spread

ORANGE = (255, 166, 33)


def medium(**other: Any) -> KeptMedium:
    facts: dict[str, Any] = {
        "kind": "video", "name": "gone.mp4", "grid": (2, 1, 4), "start": 0, "stop": 8, "size": (80, 20),
        "seconds": ((0.0, 1.0), (1.0, 2.0)), "frames": ((0, 1), (2, 3)),
    }  # fmt: skip
    return KeptMedium(**{**facts, **other})


def kept(**other: Any) -> Kept:
    """The first position keeps a token, merges two with two of the second position, and drops one."""
    group = np.array([0, 1, 1, -1, -1, 1, 1, 2])
    own = np.zeros(8, bool)
    own[[0, 1, 7]] = True
    step = KeptStep("fastv", 2, group, own, np.linspace(-8, -1, 8).astype(np.float32))
    return Kept((medium(**other),), (step,), "what <b>is</b> it?", "a </script> square")


def page_of(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return json.loads(re.findall(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[0])


def test_cells_are_drawn_where_they_lie() -> None:
    white = ShownPosition(0, Image.new("RGB", (80, 20), "white"), True)
    pixels = np.asarray(drawn(kept(), kept().media[0], white))
    assert (pixels[10, 10] == 255).all() and tuple(pixels[0, 0]) == ORANGE, "kept: bright, with a frame"
    tinted = (np.array([255, 255, 255]) + np.array(color_of(1))) / 2
    assert np.abs(pixels[10, 30] - tinted).max() <= 1 and (pixels[10, 50] == pixels[10, 30]).all(), "one colour a group"
    assert pixels[10, 70].max() < 100, "dropped: dark"
    second = np.asarray(drawn(kept(), kept().media[0], white._replace(at=1)))
    assert second[10, 10].max() < 100 and (second[10, 30] == pixels[10, 30]).all()


def test_nothing_pruned_leaves_the_frame() -> None:
    frame = Image.fromarray(np.arange(80 * 20 * 3, dtype=np.uint8).reshape(20, 80, 3))
    whole = Kept((medium(),), ())
    assert drawn(whole, whole.media[0], ShownPosition(0, frame, True)).tobytes() == frame.tobytes()


def test_a_page_holds_the_map(tmp_path: Path) -> None:
    run = page_of(picture(kept(), tmp_path / "k.html"))["runs"][0]
    assert (run["question"], run["answer"], run["tokens"]) == ("what <b>is</b> it?", "a </script> square", 8)
    assert run["steps"] == [{"name": "fastv", "at": 2, "left": 3}]
    (shown,) = run["media"]
    assert shown["shares"] == [[0.5, 0.25]] and shown["seconds"] == [[0, 1], [1, 2]]
    one, other = shown["positions"]
    assert (one["cells"], one["steps"][0]["state"], one["steps"][0]["size"]) == ([0, 1, 2, 3], "kmmd", [1, 4, 4, 0])
    assert (other["cells"], other["steps"][0]["state"]) == ([0, 1, 2, 3], "dmmk")
    assert other["steps"][0]["score"] == [-4, -3, -2, -1] and not one["readable"]


def test_a_page_needs_no_network_and_runs_nothing_of_others(tmp_path: Path) -> None:
    text = picture(kept(name='"><img src=x onerror=alert(1)>.mp4'), tmp_path / "k.html").read_text(encoding="utf-8")
    data = text.index('<script id="data"')
    assert not re.search(r"https?:|@import|url\(|src=", text[:data] + text[text.index("</script>", data) :])
    assert "<b>is</b>" not in text and "onerror=alert(1)>" not in text and text.count("</script>") == 2
    assert "innerHTML" not in text and "default-src 'none'" in text


def test_a_page_can_be_used_by_keyboard_and_by_ear(tmp_path: Path) -> None:
    text = picture(kept(), tmp_path / "k.html").read_text(encoding="utf-8")
    for part in ('lang="en"', 'name="viewport"', 'role="status"', "aria-label", "tabIndex", "ArrowLeft", "fieldset",
                 "prefers-color-scheme: dark", ":focus-visible"):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_the_same_bytes_and_two_runs(tmp_path: Path, suffix: str) -> None:
    one = picture(kept(), tmp_path / f"a{suffix}").read_bytes()
    assert picture(kept(), tmp_path / f"b{suffix}").read_bytes() == one
    two = picture([kept(), kept()], tmp_path / f"c{suffix}", titles=["left", "right"])
    if suffix == ".html":
        assert [run["title"] for run in page_of(two)["runs"]] == ["left", "right"]
    else:
        with Image.open(two) as both, Image.open(io.BytesIO(one)) as alone:
            assert both.height == 2 * alone.height and both.width == alone.width


def test_long_videos_are_sampled() -> None:
    assert spread(5, 8) == [0, 1, 2, 3, 4]
    some = spread(1800, 48)
    assert len(some) == 48 and some[0] == 0 and some[-1] == 1799 and some == sorted(set(some))
    assert spread(3, 1) == [0]


def test_frames_are_those_of_the_positions(tmp_path: Path) -> None:
    shades = np.stack([np.full((32, 64, 3), 40 * number, np.uint8) for number in range(6)])
    path = tmp_path / "v.mp4"
    write_video(path, shades, 2)
    own = medium(name=str(path), grid=(3, 1, 2), stop=6, size=(64, 32), seconds=((0.0, 1.0), (1.0, 2.0), (2.0, 3.0)))
    for source in (None, list(shades), shades):
        found = shown_positions(own, source, 8, 32)
        assert [round(float(np.asarray(each.frame).mean()) / 40) for each in found] == [0, 2, 4]
        assert all(each.readable and each.frame.size == (32, 16) for each in found)
    sampled = shown_positions(own, None, 2, 32)
    assert [each.at for each in sampled] == [0, 2]


def frames_in(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as video:
        return [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in video.decode(video=0)]


def test_a_video_has_its_frames_and_times_and_what_was_kept(tmp_path: Path) -> None:
    white = np.full((4, 120, 480, 3), 255, np.uint8)
    path = write_video(tmp_path / "v.mp4", white, 2)
    own = Kept((medium(name=str(path), size=(480, 120)),), kept().steps)
    one = picture(own, tmp_path / "k.mp4")
    assert one.read_bytes() == picture(own, tmp_path / "l.mp4").read_bytes()
    found = frames_in(one)
    assert [time for time, _ in found] == [0.0, 0.5, 1.0, 1.5]
    for (_, early), (_, late) in zip(found[:2], found[2:], strict=True):
        assert early[60, 60].min() > 230 and early[60, 420].max() < 110, "kept, and dropped, at the first position"
        assert late[60, 60].max() < 110 and late[60, 420].min() > 230, "the other way round at the second"
        tinted = (255 + np.array(color_of(1))) / 2
        assert np.abs(early[60, 180] - tinted).max() < 30
    both = frames_in(picture([own, own], tmp_path / "two.mp4"))
    assert both[0][1].shape == (120, 960, 3) and len(both) == 4


def test_a_video_of_no_video_is_refused(tmp_path: Path) -> None:
    image = medium(kind="image", seconds=None, frames=())
    for wrong in (Kept((image,), kept().steps), kept(), Kept((medium(seconds=None),), kept().steps)):
        with pytest.raises(ConfigError):
            picture(wrong, tmp_path / "k.mp4")
    assert not list(tmp_path.iterdir())


def test_an_image_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "i.png"
    Image.new("RGB", (80, 20), "red").save(path)
    own = medium(kind="image", name=str(path), grid=(1, 2, 4), seconds=None, frames=())
    run = page_of(picture(Kept((own,), kept().steps), tmp_path / "k.html"))["runs"][0]
    image = base64.b64decode(run["media"][0]["positions"][0]["image"].split(",")[1])
    with Image.open(io.BytesIO(image)) as seen:
        red, green, _ = np.asarray(seen)[0, 0]
    assert red > 240 and green < 20 and run["media"][0]["seconds"] is None


def test_what_cannot_be_drawn_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    old = tmp_path / "k.html"
    old.write_text("old")
    for wrong in ({"path": tmp_path / "k.gif"}, {"path": old, "titles": ["a", "b"]}, {"path": old, "sources": []}):
        with pytest.raises(ConfigError):
            picture(kept(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing to draw"):
        picture(Kept((), ()), old)
    assert old.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["k.html"]


def test_a_notebook_shows_the_page_of_an_answer() -> None:
    shown = Answer.of({"answer": "a"}, kept()).show()._repr_html_()
    (page,) = re.findall(r'srcdoc="([^"]*)"', shown)
    assert html.unescape(page).startswith("<!doctype html>") and "fastv" in page
    with pytest.raises(ConfigError):
        Answer.of({"answer": "a"}, None).show()


# ---- the commands


def test_the_commands_know_the_forms() -> None:
    assert PICTURES == SUFFIXES


def test_show_draws_two_methods_about_the_bundled_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "k.html"
    assert main(["show", "--config", "paper", "--beside", "fastv", "--out", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["picture"] == str(path) and [each["config"] for each in told["answers"]] == ["paper", "fastv"]
    runs = page_of(path)["runs"]
    assert [run["title"] for run in runs] == ["paper", "fastv"]
    assert [run["steps"][-1]["left"] for run in runs] == [each["kept"] for each in told["answers"]]
    assert all(each["readable"] for run in runs for each in run["media"][0]["positions"])


def test_ask_draws_also_when_it_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--compare"]):
        path = tmp_path / f"k{len(more)}.png"
        assert main(["demo", "--picture", str(path), "--json", *more]) == 0
        assert json.loads(capsys.readouterr().out)["picture"] == str(path)
        with Image.open(path) as image:
            assert image.width > 900
    assert main(["demo", "--picture", str(tmp_path / "k.txt")]) == 2
    assert main(["show", "--out", str(tmp_path / "no" / "k.html")]) == 2
