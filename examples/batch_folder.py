"""Ask one question about every video of a folder; an answered one is not asked again.

    python examples/batch_folder.py                                        # the bundled clips, with the bundled toy
    python examples/batch_folder.py videos "What happens?" answers.jsonl Qwen/Qwen2.5-VL-7B-Instruct

This is the loop to change. `prunevid batch` does the same for folders and files of questions, on GPUs and machines.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

from prunevid_qwen import PruneVidError, PruneVidQwen25VL

CLIPS = str(files("prunevid_qwen") / "bundled" / "clips")
ENDINGS = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif"}


def main(
    folder: str = CLIPS,
    question: str = "How many objects are there?",
    out: str = "answers.jsonl",
    model_path: str = "bundled",
) -> None:
    """Write a line of JSON for each video: its answer, or what is wrong with it."""
    lines = Path(out)
    stored = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    done = {line["video"] for line in stored if "answer" in line}
    model = PruneVidQwen25VL(model_path)
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() not in ENDINGS or str(path) in done:
            continue
        try:
            result = model.generate(str(path), question, max_new_tokens=64)
            line = {"video": str(path), "answer": result["answer"], "tokens": result["stats"]["tokens"]}
        except PruneVidError as error:  # a video that cannot be read stops no other one
            line = {"video": str(path), "error": str(error)}
        with lines.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{path.name}: {line.get('answer', line.get('error'))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
