"""What frames without a token cost where each has a timestamp: ``python -m research.empty_frames``.

Writes eval/results/empty_frames.json. The bundled toy, which writes no timestamps, answers questions about clips of
moving shapes with 10 % of its visual tokens; counted is how many of the frames (temporal positions) keep none, and what
the text of all and of those frames would be in Qwen3-VL: "<t seconds>" and two brackets, a digit or a sign a token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import typer

from prunevid_qwen import PruneVidConfig, PruneVidQwen25VL, pruned
from prunevid_qwen.adapters.vision import vision_from_memory
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, make_questions, make_scene, render
from prunevid_qwen.receipt import versions
from prunevid_qwen.tokens.trace import SampleTrace

RESULT = Path(__file__).resolve().parents[1] / "eval" / "results" / "empty_frames.json"
SIDE, FRAMES, SCENES = 224, 16, 24
SECONDS = 2.0  # from one temporal position to the next: a clip of a minute in 32 positions
SELECTORS: dict[str, dict[str, Any]] = {
    "prunevid": {"keep_ratio": 0.1},
    "prunevid behind stage 1": {"enable_stage1": True, "keep_ratio": 0.2, "cluster_ratio": 0.5},
    "fastv": {"selector": "fastv", "keep_ratio": 0.1},
    "glimpse": {"selector": "glimpse", "keep_ratio": 0.1, "keep_threshold": None},
    "random": {"selector": "random", "keep_ratio": 0.1},
    "uniform": {"selector": "uniform", "keep_ratio": 0.1},
}


def text_of(frame: int) -> int:
    """Count the tokens of a frame's timestamp and brackets."""
    return len("<.0>") + len(str(int(SECONDS * (frame + 0.5)))) + 1 + 2


def frames_left(sample: SampleTrace) -> set[int]:
    """Name the temporal positions of a row's one video that have tokens after the last step."""
    (block,) = sample.blocks
    left = torch.arange(sample.tokens)
    for each in sample.reductions:
        left = left[each.map.rep]
    return set(left.div(block.grid[1] * block.grid[2], rounding_mode="floor").tolist())


def row_of(model: PruneVidQwen25VL, options: dict[str, Any]) -> dict[str, Any]:
    """Ask one question about each scene."""
    config = PruneVidConfig(**{"enable_stage1": False, "max_frames": FRAMES, **options})
    positions, empty, kept, tokens, text, wasted = 0, 0, 0, 0, 0, 0
    for seed in range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + SCENES):
        scene = make_scene(seed, SIDE, SIDE)
        prepared = model.with_config(config).prepare(render(scene, FRAMES), make_questions(scene, seed)[0].text)
        with vision_from_memory(model.model.model.visual, prepared.encoded), pruned(model.model, config) as trace:
            model.model.generate(**prepared.inputs, max_new_tokens=1, do_sample=False)
        (sample,) = trace.samples
        left, count = frames_left(sample), sample.blocks[0].grid[0]
        positions, empty = positions + count, empty + count - len(left)
        kept, tokens = kept + sample.after_stage2, tokens + sample.tokens
        text += sum(map(text_of, range(count)))
        wasted += sum(text_of(frame) for frame in range(count) if frame not in left)
    return {
        "share_of_tokens_kept": kept / tokens,
        "share_of_frames_empty": empty / positions,
        "visual_tokens_kept": kept,
        "text_tokens_of_all_frames": text,
        "text_tokens_of_empty_frames": wasted,
        "share_of_the_prompt_that_empty_frames_are": wasted / (kept + text),
    }


def geometry(cells: int, frames: int = 32) -> dict[str, Any]:
    """Say what 10 % leaves of a video of Qwen3-VL beside the text of its frames, none of them dropped."""
    visual, text = round(0.1 * cells * frames), sum(map(text_of, range(frames)))
    return {"frames": frames, "tokens_a_frame": cells, "visual_tokens_kept": visual, "text_tokens_of_all_frames": text}


def main() -> None:
    """Ask about all scenes under each selector, and write the record."""
    model = PruneVidQwen25VL("bundled", device="cpu", dtype="float32")
    record = {
        "what": "frames without a token at 10 %, and the text that Qwen3-VL would write for them",
        "command": "python -m research.empty_frames",
        "scenes": SCENES, "frames": FRAMES, "side": SIDE, "seconds_a_position": SECONDS,
        "toy": {name: row_of(model, options) for name, options in SELECTORS.items()},
        "geometry": [geometry(cells) for cells in (64, 128, 196, 256)],
        "versions": versions(),
        **surroundings(),
    }  # fmt: skip
    RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps({name: record[name] for name in ("toy", "geometry")}, indent=1))


if __name__ == "__main__":
    main()
