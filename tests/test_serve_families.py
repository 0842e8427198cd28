"""Other families behind the server: those whose media the library's processor reads, and Qwen3-VL's toy."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prunevid_qwen import PrunedVLM
from prunevid_qwen.serve.chat_request import ChatRequest, read_request
from prunevid_qwen.serve.limits import ServeLimits
from prunevid_qwen.serve.media_addresses import MediaAddresses
from prunevid_qwen.serve.served_model import ServedModel
from tests.serving import CLIPS, NAMES, rules
from tests.stock_folders import save_folder

ASKED = ("what color is the circle ?", "what is the color ?")


def request(question: str, kind: str, address: str) -> ChatRequest:
    shown = {"type": f"{kind}_url", f"{kind}_url": {"url": address}}
    talk = [{"role": "user", "content": [shown, {"type": "text", "text": question}]}]
    chosen = {"config": "fastv", "keep_ratio": 0.5, "max_frames": 4}
    return read_request(
        json.dumps({"model": "bundled", "messages": talk, "max_tokens": 6, "prunevid": chosen}).encode()
    )


def answered(model: PrunedVLM, requests: list[ChatRequest]) -> list[dict[str, Any]]:
    async def one(served: ServedModel, asked: ChatRequest) -> dict[str, Any]:
        contents = [await MediaAddresses(root=CLIPS).content(item) for item in asked.shown]
        parts = [part async for part in served.answer(asked, contents)]
        return parts[-1].done or {}

    async def whole() -> list[dict[str, Any]]:
        served = ServedModel(model, rules(ServeLimits(wait_ms=2000, batch=len(requests))), 2**28, 2**33, 1)
        await served.start()
        try:
            return list(await asyncio.gather(*(one(served, each) for each in requests)))
        finally:
            await served.stop()

    return asyncio.run(whole())


def config(model: PrunedVLM, asked: ChatRequest) -> PrunedVLM:
    return model.with_config(rules().allowed.chosen(asked.config, asked.options))


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llava_next", "image"),
        pytest.param("video_llava", "video", marks=pytest.mark.nightly),
        pytest.param("llava_onevision", "video", marks=pytest.mark.nightly),
        pytest.param("bundled-qwen3vl", "video", marks=pytest.mark.nightly),
    ],
)
def test_answers_are_the_class_s(family: str, kind: str, tmp_path: Path) -> None:
    source = family if family.startswith("bundled") else str(save_folder(tmp_path / family, family))
    pixels = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "png")
    address = (
        f"file:{NAMES[0]}"
        if kind == "video"
        else "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    )
    requests = [request(each, kind, address) for each in ASKED]
    found = answered(PrunedVLM(source, device="cpu"), requests)
    alone = config(PrunedVLM(source, device="cpu"), requests[0])
    assert str(tmp_path) not in json.dumps(found)  # the model's folder is nobody's business
    for question, done in zip(ASKED, found, strict=True):
        shown: dict[str, Any] = {"video_path": str(CLIPS / NAMES[0])} if kind == "video" else {"images": pixels}
        wanted = alone.generate(**shown, question=question, max_new_tokens=6, return_stats=True)
        assert done["choices"][0]["text"] == wanted["answer"]
        assert done["prunevid"]["receipt"]["tokens"] == wanted["stats"]["tokens"]
        assert done["prunevid"]["batch"] == {"requests": 2, "near_ties": 0}
