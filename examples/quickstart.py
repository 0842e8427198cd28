"""Answer a question about a video with and without pruning.

python examples/quickstart.py                                                          # the bundled toy and its clip
python examples/quickstart.py video.mp4 "What happens?" Qwen/Qwen2.5-VL-7B-Instruct
"""

import sys
from importlib.resources import files

from prunevid_qwen import PruneVidQwen25VL, get_baseline_config, get_paper_config

CLIP = str(files("prunevid_qwen") / "bundled" / "clips" / "late_square.mp4")


def main(video: str = CLIP, question: str = "What color is the last object?", model_path: str = "bundled") -> None:
    """Load the model once and ask it under two configs."""
    model = PruneVidQwen25VL(model_path, get_paper_config())  # a GPU where there is one; device="cpu" leaves it alone
    unpruned = model.with_config(get_baseline_config())
    for name, each in (("pruned", model), ("unpruned", unpruned)):
        result = each.generate(video, question, max_new_tokens=64)
        tokens = result["stats"]["tokens"]  # the receipt: what happened, stage by stage
        print(f"{name}: {result['answer']}")
        print(f"  visual tokens: {tokens['visual']}, merged to {tokens['after_stage1']}, {tokens['after_stage2']} kept")


if __name__ == "__main__":
    main(*sys.argv[1:])
