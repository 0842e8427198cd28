"""The share of visual tokens that `paper` keeps: ``python -m research.kept_share``.

Writes eval/results/kept_share.json: the demo's clip, in which a few objects move, and a camera that pans over a photo
(scikit-learn's china.jpg), so that every pixel moves. Both are shown to the bundled toy: how much merges depends on the
video and on the vision encoder.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import typer
from sklearn.datasets import load_sample_image

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.receipt import versions

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "eval" / "results" / "kept_share.json"


def main() -> None:
    """Ask about both videos and write the record."""
    model = PruneVidQwen25VL("bundled", device="cpu", dtype="float32")
    clip = ROOT / "prunevid_qwen" / "bundled" / "clips" / "late_square.mp4"
    photo = load_sample_image("china.jpg")
    pan = np.stack([photo[100:324, 20 * frame : 20 * frame + 224] for frame in range(16)])
    rows = []
    for name, video in (("the demo's clip", str(clip)), ("a pan over a photo", pan)):
        stats = model.generate(video_path=video, question="What is added last?", max_new_tokens=1)["stats"]
        config = {name: stats["config"][name] for name in ("keep_ratio", "cluster_ratio")}
        at = int(stats["steps"][-1]["where"].removeprefix("layer "))
        layers = model.model.config.text_config.num_hidden_layers
        rows.append({"video": name, "tokens": stats["tokens"], "cut_after_layer": at, "layers": layers, **config})
    record = {
        "what": "visual tokens under `paper`: all, after each stage, and averaged over the decoder's layers",
        "command": "python -m research.kept_share",
        "rows": rows,
        "versions": versions(),
        **surroundings(),
    }
    RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"{RESULT}: {rows}")


if __name__ == "__main__":
    main()
