"""Images padded to squares, as the authors of LLaVA-1.5 pad them, where a config's predictor was trained on such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_qwen import Plan, PrunedVLM, Step, get_baseline_config
from prunevid_qwen.cli.app import main
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.stage2_select.glimpse import Glimpse
from prunevid_qwen.video.picture import Picture
from tests import glimpse
from tests.llava import save_llava
from tests.receipts import differences
from tests.tolerances import close

ASKED = "what color is the circle ?"
SIZES = {"wide": (40, 71), "tall": (90, 37), "square": (50, 50)}  # height and width
CONFIG = glimpse.config(glimpse.LLAVA)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PrunedVLM:
    return PrunedVLM(str(save_llava(tmp_path_factory.mktemp("llava"))), get_baseline_config(), device="cpu")


@pytest.fixture
def pixels(model: PrunedVLM, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the vision tower is given."""
    seen: list[torch.Tensor] = []
    handle = model.model.model.vision_tower.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append(kwargs.get("pixel_values", args[0] if args else None)), with_kwargs=True
    )
    yield seen  # type: ignore[misc]
    handle.remove()


def picture(name: str) -> Image.Image:
    return Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (*SIZES[name], 3), dtype=np.uint8))


def padded(model: PrunedVLM, image: Image.Image) -> torch.Tensor:
    """By Pillow: an empty square of the mean colour, into whose middle the image is pasted; then the processor."""
    processor = model.frontend.processor.image_processor  # type: ignore[attr-defined]
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(255 * each) for each in processor.image_mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return processor(square, return_tensors="pt")["pixel_values"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("way", ["config", "plan", "messages", "prepared", "own"])
def test_the_tower_is_given_the_whole_image(
    model: PrunedVLM, pixels: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    image, given = picture(name), {"max_new_tokens": 1}
    what: Any = CONFIG if way != "plan" else Plan((Step(2, Glimpse(glimpse.random_predictor(glimpse.LLAVA))),))
    whom = model.with_config(what)
    if way == "own":  # the unpruned model on the same images
        monkeypatch.setattr(model.frontend, "pad_to_square", True)
        whom = model
    if way == "prepared":
        stats = whom.answer(whom.prepare(None, ASKED, images=image), **given)["stats"]
    elif way == "messages":
        content = [{"type": "image", "image": image}, {"type": "text", "text": ASKED}]
        stats = whom.generate(messages=[{"role": "user", "content": content}], **given)["stats"]
    else:
        stats = whom.generate(None, ASKED, images=image, **given)["stats"]
    assert torch.equal(pixels[-1], padded(model, image))
    height, width = SIZES[name]
    (about,) = stats["input"]["images"]
    side = max(height, width)
    assert about.get("square") == (None if name == "square" else [(side - height) // 2, (side - width) // 2, side])
    assert about["size"] == [height, width] and about["grid"] == [1, 4, 4]
    assert list(differences(stats)) == []


def test_kept_tokens_are_found_again_in_the_image(model: PrunedVLM) -> None:
    """As the receipt says where the image stands in the square: a cell of the grid is a part of that square."""
    black = Image.new("RGB", (80, 40))
    shown = Picture.of(black).squared((255, 255, 255))
    top, left, side = shown.facts["square"]
    for row in range(4):
        for column in range(4):
            y, x = (row + 0.5) * side / 4 - top, (column + 0.5) * side / 4 - left
            inside = 0 <= y < 40 and 0 <= x < 80
            cell = shown.pixels[row * side // 4 : (row + 1) * side // 4, column * side // 4 : (column + 1) * side // 4]
            assert bool((cell == 0).all()) == inside and bool((cell == 255).all()) == (not inside)


def test_other_methods_leave_images_to_the_processor(model: PrunedVLM, pixels: list[torch.Tensor]) -> None:
    image = picture("wide")
    pruning = model.with_config(CONFIG)
    for whom in (model, pruning.with_config(get_baseline_config())):
        stats = whom.generate(None, ASKED, images=image, max_new_tokens=1)["stats"]
        assert "square" not in stats["input"]["images"][0]
        processor = model.frontend.processor.image_processor  # type: ignore[attr-defined]
        assert torch.equal(pixels[-1], processor(image, return_tensors="pt")["pixel_values"])
    assert pruning.frontend is model.frontend and pruning._reading is not model._reading


def test_images_prepared_for_another_config_are_refused(model: PrunedVLM) -> None:
    pruning, given = model.with_config(CONFIG), {"max_new_tokens": 1}
    with pytest.raises(ConfigError, match="prepare"):
        pruning.answer(model.prepare(None, ASKED, images=picture("wide")), **given)
    pruning.answer(model.prepare(None, ASKED, images=picture("square")), **given)
    model.answer(pruning.prepare(None, ASKED, images=picture("wide")), **given)  # the baseline on the same pixels


def test_a_family_whose_images_keep_their_shape_refuses(tmp_path: Path) -> None:
    from prunevid_qwen.loading import bundled_model
    from prunevid_qwen.stage2_select.glimpse import GlimpseVIP

    facts = GlimpseVIP.from_pretrained("bundled").facts
    folder = glimpse.folder_of(type(facts)(**{**vars(facts), "pad_to_square": True}))
    with pytest.raises(UnsupportedError, match="glimpse_path"):
        PrunedVLM(bundled_model(), get_baseline_config().replace(selector="glimpse", glimpse_path=folder), device="cpu")


def test_the_librarys_own_padding_makes_the_same_pixels(model: PrunedVLM) -> None:
    stock: Any = pytest.importorskip("transformers.models.llava.image_processing_pil_llava")
    plain = model.frontend.processor.image_processor  # type: ignore[attr-defined]
    made = stock.LlavaImageProcessorPil(do_pad=True, size=plain.size, crop_size=plain.crop_size)
    for name in SIZES:
        close(made(picture(name), return_tensors="pt")["pixel_values"], padded(model, picture(name)))


@pytest.mark.parametrize("compare", [[], ["--compare"]])
def test_ask_pads_and_shows_both_sides_the_same_image(
    model: PrunedVLM, tmp_path: Path, capsys: pytest.CaptureFixture[str], compare: list[str]
) -> None:
    picture("wide").save(tmp_path / "photo.png")
    words = ["ask", "--model_path", model.name, "--image", str(tmp_path / "photo.png"), "--question", ASKED,
             "--config", "glimpse", "--glimpse_path", glimpse.folder_of(glimpse.LLAVA), "--max_new_tokens", "2",
             "--device", "cpu", "--json", *compare]  # fmt: skip
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    for side in [told, *([told["baseline"]] if compare else [])]:
        assert side["stats"]["input"]["images"][0]["square"] == [15, 0, 71]
    assert 0 < told["stats"]["tokens"]["after_stage2"] < told["stats"]["tokens"]["visual"]
