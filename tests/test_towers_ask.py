"""InternVL and Qwen3.5 in folders, from files to answers, by command and by call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_qwen import PrunedVLM, PruneVidConfig, get_baseline_config
from prunevid_qwen.adapters.tiny import END, IMAGE, SIDE, START
from prunevid_qwen.cli import main
from tests.families import FAMILIES, often
from tests.internvl import TILE, save_internvl
from tests.media import encode
from tests.qwen3 import save_qwen3
from tests.test_qwen3 import OTHER, OUT, said, stock_answer
from tests.tolerances import LOGITS, close

ASKED = "what color is the circle ?"
WHOLE = get_baseline_config().replace(max_frames=4)
CELLS = SIDE**2


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("v") / "a.mp4", rate=10, frames=40, size=(56, 84))


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 120, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_internvl(tmp_path_factory.mktemp("internvl"))


def asked(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    common = ("--model_path", str(folder), "--max_new_tokens", "2", "--json", "--max_frames", "4", "--device", "cpu")
    assert main(["ask", *words, ASKED, *common]) == 0
    stats: dict[str, Any] = json.loads(capsys.readouterr().out)["stats"]
    return stats


# ---- InternVL


@pytest.mark.parametrize("shown", ["video", "photo"])
def test_an_internvl_without_pruning_is_the_stock_model(
    shown: str, internvl: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(shown)
    model = PrunedVLM(str(internvl), WHOLE, device="cpu")
    inputs, out = stock_answer(model, said(path, ASKED))
    ours = model.generate(messages=said(path, ASKED), do_sample=False, **OUT)["output"]
    assert torch.equal(ours.sequences, out.sequences)
    assert all(torch.equal(one, two) for one, two in zip(ours.logits, out.logits, strict=True))
    ids, tile = inputs["input_ids"][0].tolist(), [START, *[IMAGE] * CELLS, END]
    text = model.tokenizer.decode(ids)
    if shown == "video":  # a tile and its number for each frame
        assert text.count("Frame") == 4 and ids.count(IMAGE) == 4 * CELLS
        assert all(ids[at : at + len(tile)] == tile for at, token in enumerate(ids) if token == START)
        assert inputs["pixel_values"].shape == (4, 3, TILE, TILE)
    else:  # twice as wide as high: two tiles and a thumbnail
        assert ids.count(START) == 1 and ids.count(IMAGE) == 3 * CELLS


def test_ask_an_internvl(internvl: Path, video: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stats = asked(internvl, capsys, str(video), str(photo))
    assert stats["tokens"]["visual"] == stats["tokens"]["after_stage1"] == 7 * CELLS  # tiles pass, as images do
    assert stats["stage1"]["note"] and stats["tokens"]["after_stage2"] < 7 * CELLS
    assert (len(stats["input"]["videos"]), len(stats["input"]["images"])) == (1, 1)
    stats = asked(internvl, capsys, str(video), "--merge_images")
    assert stats["tokens"]["after_stage1"] < 4 * CELLS


# ---- Qwen3.5


@pytest.mark.parametrize("family", often(each for each in ("qwen3_5", "qwen3_5_moe") if each in FAMILIES))
def test_ask_a_qwen3_5(
    family: str, tmp_path: Path, video: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stats = asked(save_qwen3(tmp_path, family), capsys, str(video), str(photo))
    tokens = stats["tokens"]
    assert tokens["after_stage2"] < tokens["after_stage1"] < tokens["visual"]
    assert stats["stage3"]["partial"] and stats["stage3"]["cache_lengths"][0] == 0
    model = PrunedVLM(str(tmp_path), WHOLE, device="cpu")
    _, out = stock_answer(model, said(video, photo, ASKED))
    ours = model.generate(messages=said(video, photo, ASKED), do_sample=False, **OUT)["output"]
    assert torch.equal(ours.sequences, out.sequences)
    assert all(torch.equal(one, two) for one, two in zip(ours.logits, out.logits, strict=True))


def test_a_layer_of_linear_attention_is_refused_with_one_that_attends(
    tmp_path: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_qwen3(tmp_path, "qwen3_5")
    words = ["ask", str(video), ASKED, "--model_path", str(folder), "--pruning_layer", "0", "--device", "cpu"]
    assert main(words) == 2
    assert "--pruning_layer" in (said := capsys.readouterr().err) or "pruning_layer=1" in said


@pytest.mark.usefixtures("scores_apart")
def test_a_qwen3_5_answers_a_batch_and_a_conversation(tmp_path: Path, video: Path) -> None:
    model = PrunedVLM(str(save_qwen3(tmp_path, "qwen3_5")), PruneVidConfig(max_frames=4, keep_ratio=0.5), device="cpu")
    both = model.generate([str(video)] * 2, [ASKED, OTHER], do_sample=False, **OUT)
    alone = [model.generate(str(video), question, do_sample=False, **OUT) for question in (ASKED, OTHER)]
    for i, one in enumerate(alone):
        for together, own in zip(both[i]["output"].logits, one["output"].logits, strict=True):
            close(together[i], own[0], LOGITS)
    more = [*said(video, ASKED), {"role": "assistant", "content": alone[0]["answer"]}, *said(OTHER)]
    cache = alone[0]["past_key_values"]
    second = model.generate(messages=more, past_key_values=cache, do_sample=False, return_stats=True, **OUT)
    assert second["stats"]["input"]["cached_tokens"] > 24 and second["answer"]
    three, before = second["stats"]["stage3"], alone[0]["stats"]["stage3"]["cache_lengths"]
    first, *attending, last = three["cache_lengths"]
    assert first == last == before[0] == 0, "linear attention holds no keys"
    assert set(attending) == {three["compressed_length"]} and attending[0] > before[1]
    assert three["reduction_ratio"] == pytest.approx(1 - attending[0] / three["original_length"])
