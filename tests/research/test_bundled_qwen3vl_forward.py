"""The second toy is trained on the prompts, positions and forward pass that the library gives it afterwards."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen import PrunedVLM, get_baseline_config
from prunevid_qwen.inputs.qwen.media import MediaReader, Medium
from prunevid_qwen.inputs.qwen.pixel_options import PixelOptions
from prunevid_qwen.inputs.qwen.qwen3 import Qwen3Preprocessor, _replaces_brackets
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, make_questions, make_scene, render
from research.bundled_model.fast_forward import answer_states, patchify
from research.bundled_model.sequence import prompt_ids, question_blocks
from research.bundled_qwen3vl.architecture import build_model
from research.bundled_qwen3vl.export import SETTINGS, export_model
from research.bundled_qwen3vl.fast_forward import PIXEL_MEAN, PIXEL_STD, vision_features
from research.bundled_qwen3vl.sequence import layout
from research.bundled_qwen3vl.tokenizer import VOCABULARY, build_tokenizer
from tests.media import encode
from tests.tolerances import LOGITS, close

pytestmark = pytest.mark.nightly

SEEDS = range(FIRST_HELD_OUT_SEED + 100, FIRST_HELD_OUT_SEED + 102)
TIMES = [0.26, 1.31, 2.4, 3.44, 4.5, 15.55]  # of six pairs of frames
OUTER = not _replaces_brackets()


@cache
def model() -> Any:
    """Of parameters that are all drawn: a norm of ones or a bias of zeros would hide that it is not read."""
    made = build_model(seed=3).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made


@cache
def frontend() -> Qwen3Preprocessor:
    names = {"image": "preprocessor_config.json", "video": "video_preprocessor_config.json"}
    options = {
        kind: PixelOptions.from_folder_json(SETTINGS[name], video=kind == "video", frontend="qwen3")
        for kind, name in names.items()
    }
    return Qwen3Preprocessor(build_tokenizer(), MediaReader(options["video"], options["image"]), "qwen3_vl")


def pixels_of(patches: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).repeat_interleave(392) for values in (PIXEL_MEAN, PIXEL_STD))
    return ((patches.flatten(0, 1) / 255 - mean) / std).float()


def shown(kind: str, patches: torch.Tensor, grid: tuple[int, int, int]) -> dict[str, torch.Tensor]:
    """What the library is given beside ids: pixels and the grid in patches."""
    at = torch.tensor([[grid[0], 2 * grid[1], 2 * grid[2]]])
    names = ("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")
    return dict(zip(names, (pixels_of(patches), at), strict=True))


@pytest.mark.parametrize("multiple_choice", [False, True])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_training_reads_what_the_package_writes(kind: str, multiple_choice: bool) -> None:
    steps = len(TIMES) if kind == "video" else 1
    grid = torch.tensor([[steps, 4, 6]])
    facts = {"timestamps": [each + d for each in TIMES for d in (-0.25, 0.25)]} if kind == "video" else {}
    medium = Medium(kind, torch.zeros(24 * steps, 1176), grid, 1.0, facts)
    for question in make_questions(make_scene(SEEDS[0]), 0, multiple_choice):
        content = [{"type": kind, kind: medium}, {"type": "text", "text": question.text}]
        messages = [{"role": "user", "content": content}]
        if question.answer_prefix:
            messages.append({"role": "assistant", "content": question.answer_prefix})
        inputs = frontend().batch([frontend().sample(messages, get_baseline_config())])
        laid = layout((steps, 2, 3), TIMES if kind == "video" else None, 4, None, 1, OUTER)
        assert inputs["input_ids"][0].tolist() == [*laid.ids.tolist(), *prompt_ids(question)]
        assert VOCABULARY["<|unk|>"] not in inputs["input_ids"]


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_training_positions_are_the_librarys(kind: str, outer: bool) -> None:
    steps = len(TIMES) if kind == "video" else 1
    laid = layout((steps, 3, 5), TIMES if kind == "video" else None, 7, None, 1, outer)
    ids = torch.cat([laid.ids, torch.full((7,), VOCABULARY["red"])])[None]
    types = torch.zeros_like(ids)
    types[ids == VOCABULARY["<|image_pad|>"]] = 1
    types[ids == VOCABULARY["<|video_pad|>"]] = 2
    grid = {f"{kind}_grid_thw": torch.tensor([[steps, 6, 10]])}
    theirs, _ = model().model.get_rope_index(ids, mm_token_type_ids=types, **grid)
    assert torch.equal(torch.cat([laid.positions.prefix[:, 0], laid.positions.block], 1), theirs[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("size", [(112, 112), (84, 140)])
def test_the_tower_of_training_is_the_librarys(size: tuple[int, int]) -> None:
    patches = patchify(torch.from_numpy(render(make_scene(SEEDS[1], *size), 4))[None])
    rows, columns = size[0] // 14, size[1] // 14
    ours = vision_features(model().model.visual, patches, rows, columns)
    theirs = model().model.visual(pixels_of(patches), grid_thw=torch.tensor([[2, rows, columns]]))
    for made, wanted in zip(ours, [theirs.pooler_output, *theirs.deepstack_features], strict=True):
        close(made.flatten(0, 1), wanted, LOGITS)


@torch.no_grad()
@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_the_training_forward_is_the_librarys(kind: str, outer: bool) -> None:
    count = 2 * len(TIMES) if kind == "video" else 2
    patches = patchify(torch.from_numpy(render(make_scene(SEEDS[1]), count))[None])
    grid = (count // 2, 4, 4)
    made = vision_features(model().model.visual, patches, 8, 8)
    questions = make_questions(make_scene(SEEDS[1]), 0)[:3]
    asked = question_blocks([questions])
    laid = layout(grid, TIMES if kind == "video" else None, asked.ids.shape[-1], None, 1, outer)
    words = model().model.language_model.embed_tokens(laid.ids)
    prefix = laid.placed(words, made[0].flatten(0, 1)[None])
    levels = [laid.placed(torch.zeros_like(words), level.flatten(0, 1)[None]) for level in made[1:]]
    states = answer_states(model(), prefix, asked.ids, laid.positions, levels=levels)
    for n in range(len(questions)):
        length = int(asked.asked_at[0, n]) + 1
        ids = torch.cat([laid.ids, asked.ids[0, n, :length]])[None]
        positions = torch.cat([laid.positions.prefix[:, 0], laid.positions.block[:, :length]], 1)[:, None]
        given = shown(kind, patches, grid)
        out = model()(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, **given)
        close(out.logits[0, -1], model().lm_head(states[0, n, length - 1]), LOGITS)


def test_what_is_left_out_of_a_video_is_left_out_of_its_layout() -> None:
    whole = layout((2, 2, 3), TIMES[:2], 3, None, 2, True)
    keep = torch.tensor([[0, 5, 6], [1, 2, 11]])
    left = layout((2, 2, 3), TIMES[:2], 3, keep, 2, True)
    features = torch.arange(24.0).view(2, 12, 1)
    kept = features.gather(1, keep[..., None])
    rows = left.placed(torch.full((len(left.ids), 1), -1.0), features)
    assert [row[row >= 0].tolist() for row in rows[..., 0]] == kept[..., 0].tolist()
    for b in range(2):
        assert torch.equal(left.positions.prefix[:, b], whole.positions.prefix[:, b, left.index[b]])
    assert torch.equal(left.positions.block, whole.positions.block)


def test_an_export_is_read_by_the_package_and_says_what_the_model_does(tmp_path: Path) -> None:
    folder = export_model(build_model(0), tmp_path / "toy")
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4 * 2**20 - 2**14  # and its card
    clip = encode(tmp_path / "a.mp4", rate=4, frames=8, size=(224, 224))
    read = PrunedVLM(str(folder), get_baseline_config(), device="cpu", dtype="float32")
    asked = [{"role": "user", "content": [{"type": "video", "video": str(clip)}, {"type": "text", "text": "what ?"}]}]
    inputs = read.frontend.batch([read.frontend.sample(asked, read.config)])
    assert inputs["video_grid_thw"].tolist() == [[4, 8, 8]], "a frame is as large as in training"
    untrained = build_model(0).eval()
    with torch.no_grad():
        for parameter in untrained.parameters():
            parameter.copy_(parameter.bfloat16())
        assert torch.equal(read.model(**inputs).logits, untrained(**inputs).logits)
