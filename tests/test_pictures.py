"""Grids noted where features are asked for: which of them a prompt shows, in which row."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from prunevid_qwen.adapters.picture_grids import PictureGrid, Pictures
from prunevid_qwen.errors import SetupError, UnsupportedError

WIDE, HIGH, TILE = (1, 2, 3), (1, 3, 1), (1, 1, 2)


class Features(dict[str, Any]):
    """As the library's outputs: a mapping with attributes."""


class Root(nn.Module):
    """Asks for a video as for images; says nothing of their grids but in its arguments."""

    def get_image_features(self, pixel_values: Any, image_sizes: Any = None) -> Any:
        return Features(of="image")

    def get_video_features(self, pixel_values_videos: Any, grids: Any = None) -> Any:
        self.get_image_features(pixel_values_videos)
        return Features(of="video")


def read(kind: str, given: Mapping[str, Any], features: Any) -> Sequence[PictureGrid] | None:
    grids = given.get("image_sizes" if kind == "image" else "grids")
    if grids is None:
        return None
    newline = (0, 1, -1)
    return [PictureGrid(kind, grid, newline if grid == TILE else None) for grid in grids]


def noting() -> tuple[Root, Pictures]:
    return Root(), Pictures(read, ("image", "video"))


def types(*rows: str) -> list[torch.Tensor]:
    """Of "ivt": image, video, text."""
    return [torch.tensor(["tiv".index(letter) for letter in row]) for row in rows]


def grids(dealt: list[tuple[PictureGrid, ...]]) -> list[list[tuple[int, int, int]]]:
    return [[each.grid for each in row] for row in dealt]


def test_rows_get_their_own_in_order() -> None:
    root, pictures = noting()
    with pictures.watching(root):
        pictures.begin(None)
        root.get_image_features("pixels", image_sizes=[WIDE, HIGH, TILE])
        root.get_video_features("frames", grids=[(2, 1, 1)])
        dealt = pictures.deal(types("t" + "i" * 6 + "t", "iiitvvt", "ttt", "iiit"))
    assert grids(dealt) == [[WIDE], [HIGH, (2, 1, 1)], [], [TILE]]
    assert dealt[3][0].cells == (0, 1, -1) and dealt[3][0].tokens == 3
    assert not {"get_image_features", "get_video_features"} & vars(root).keys()


def test_a_video_asked_for_as_images_is_noted_once() -> None:
    root, pictures = noting()
    with pictures.watching(root):
        pictures.begin(None)
        root.get_video_features("frames", grids=[(2, 1, 1)])
        assert grids(pictures.deal(types("vv"))) == [[(2, 1, 1)]]
        with pytest.raises(UnsupportedError):
            pictures.deal(types("vvi"))


def test_a_new_forward_has_its_own() -> None:
    root, pictures = noting()
    with pictures.watching(root):
        root.get_image_features("somebody looks", image_sizes=[WIDE])
        pictures.begin(None)
        root.get_image_features("pixels", image_sizes=[HIGH])
        assert grids(pictures.deal(types("iii"))) == [[HIGH]]
        pictures.begin(None)
        with pytest.raises(UnsupportedError):
            pictures.deal(types("iii"))


def test_features_asked_for_ahead_carry_theirs() -> None:
    root, pictures = noting()
    with pictures.watching(root):
        ahead = root.get_image_features("pixels", image_sizes=[TILE, WIDE])
    for carried in (ahead, copy.deepcopy(ahead), pickle.loads(pickle.dumps(ahead))):
        pictures.begin({"image": carried, "video": None})
        assert grids(pictures.deal(types("iiit", "iiiiii"))) == [[TILE], [WIDE]]


def test_features_of_elsewhere_are_refused_where_nothing_tells_their_grid() -> None:
    root, pictures = noting()
    pictures.begin({"image": root.get_image_features("pixels", image_sizes=[WIDE])})  # outside the block
    assert pictures.deal(types("ttt")) == [()]
    with pytest.raises(UnsupportedError):
        pictures.deal(types("iiiiii"))


def test_rows_may_be_copies() -> None:
    root, pictures = noting()
    with pictures.watching(root):
        pictures.begin(None)
        root.get_image_features("pixels", image_sizes=[WIDE, HIGH, HIGH])
        dealt = pictures.deal(types(*["iiiiii"] * 3, *["iiitiii"] * 3, *["ttt"] * 3))
    assert grids(dealt) == [[WIDE]] * 3 + [[HIGH, HIGH]] * 3 + [[]] * 3


@pytest.mark.parametrize("rows", [("iii", "iiiiii"), ("iiiiiiiii", "iii"), ("iiii",), ("iiiiii",), ("i" * 8, "i")])
def test_what_was_noted_has_to_fit_the_rows(rows: tuple[str, ...]) -> None:
    root, pictures = noting()
    with pictures.watching(root):
        pictures.begin(None)
        root.get_image_features("pixels", image_sizes=[WIDE, HIGH])
        with pytest.raises(UnsupportedError):
            pictures.deal(types(*rows))


def test_a_tuple_is_looked_at_and_goes_nowhere() -> None:
    root, pictures = noting()
    root.get_image_features = lambda pixel_values, image_sizes=None: ("features",)  # type: ignore[method-assign]
    with pictures.watching(root):
        pictures.begin(None)
        assert root.get_image_features("pixels", image_sizes=[WIDE]) == ("features",)
        with pytest.raises(UnsupportedError):
            pictures.deal(types("iiiiii"))


def test_threads_have_prompts_of_their_own() -> None:
    root, pictures = noting()
    dealt: list[Any] = []

    def other() -> None:
        pictures.begin(None)
        root.get_image_features("pixels", image_sizes=[HIGH])
        dealt.append(grids(pictures.deal(types("iii"))))

    with pictures.watching(root):
        pictures.begin(None)
        root.get_image_features("pixels", image_sizes=[WIDE])
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert grids(pictures.deal(types("iiiiii"))) == [[WIDE]]
    assert dealt == [[[HIGH]]]


def test_a_model_that_is_not_asked_for_features() -> None:
    with pytest.raises(SetupError, match="get_image_features"), noting()[1].watching(SimpleNamespace()):
        pass
