"""Ask several questions about one video, which is read and encoded once.

python examples/many_questions.py                                                     # the bundled toy and its clip
python examples/many_questions.py video.mp4 Qwen/Qwen2.5-VL-7B-Instruct "What happens?" "Who is there?"
"""

import sys
from importlib.resources import files

from prunevid_qwen import PruneVidQwen25VL

CLIP = str(files("prunevid_qwen") / "bundled" / "clips" / "late_square.mp4")
QUESTIONS = ("How many objects are there?", "What color is the circle?", "What shape is the first object?")


def main(video: str = CLIP, model_path: str = "bundled", *questions: str) -> None:
    """Prepare once, answer each question with tokens that are selected for it."""
    model = PruneVidQwen25VL(model_path)
    asked = list(questions or QUESTIONS)
    prepared = model.prepare(video, asked)
    for question, result in zip(asked, model.answer(prepared, max_new_tokens=64), strict=True):
        tokens = result["stats"]["tokens"]
        print(f"{question} {result['answer']} ({tokens['after_stage2']} of {tokens['visual']} visual tokens)")


if __name__ == "__main__":
    main(*sys.argv[1:])
