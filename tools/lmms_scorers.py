"""What lmms-eval's own scorers say of strings. Run by ``tools/test_lmms.py`` where lmms-eval is installed.

Reads ``{"strings": [...], "options": [five texts]}`` from stdin; writes, for each scorer and string, the letters that
it counts as right and what it does then, in the words of `prunevid_qwen.evaluation.protocol.scorers.AnswerReading`.
"""

from __future__ import annotations

import json
import os
import random
import string
import sys
import types
from collections.abc import Callable
from typing import Any

LETTERS = "ABCDE"
DRAWS = 60
"""Times that a scorer which draws is asked: that one of five letters comes every time has a chance of 1e-41."""


def main() -> None:
    """Ask every scorer about every string."""
    # LongVideoBench's functions stand beside a reader that needs decord; nothing is read here
    decord: Any = types.ModuleType("decord")
    decord.VideoReader = decord.cpu = None
    sys.modules.setdefault("decord", decord)
    os.environ.setdefault("HF_HOME", os.devnull)  # two of them ask for it
    from lmms_eval.tasks.egoschema import utils as egoschema
    from lmms_eval.tasks.longvideobench import utils as longvideobench
    from lmms_eval.tasks.mlvu import utils as mlvu
    from lmms_eval.tasks.mvbench import utils as mvbench
    from lmms_eval.tasks.nextqa import utils as nextqa
    from lmms_eval.tasks.tempcompass import utils as tempcompass
    from lmms_eval.tasks.videomme import utils as videomme

    tempcompass.get_eval_result = lambda _: ("", "judged")  # a language model is asked what no rule reads

    given = json.load(sys.stdin)
    listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, given["options"], strict=True)]
    index, choices = egoschema.get_multi_choice_info({"option": listed})

    def of_mvbench(text: str) -> tuple[str, str]:
        rows = [{"pred_answer": text, "score": 0}, {"pred_answer": "right", "score": 1}]
        if mvbench.mvbench_aggregate_results(rows) == 100:
            return "", "left_out"
        return _read("".join(letter for letter in string.ascii_uppercase if mvbench.mcq_acc(letter, text)))

    def of_tempcompass(text: str) -> tuple[str, str]:
        ratings = {}
        for line in listed[:4]:
            doc = {"video_id": "", "question": "", "dim": "speed", "answer": line}
            found = tempcompass.tempcompass_process_results_multi_choice(doc, [text])
            ratings[line[0]] = found["avg_accuracy"]["rating"]
        if "judged" in ratings.values():
            return "", "left_out"
        return _read("".join(letter for letter, rating in ratings.items() if rating))

    scorers: dict[str, Callable[[str], tuple[str, str]]] = {
        "lmms_mvbench": of_mvbench,
        "lmms_videomme": lambda text: _read(videomme.extract_characters_regex(text)),
        "lmms_mlvu": lambda text: _read(mlvu.extract_characters_regex(text)),
        "lmms_egoschema": lambda text: _drawn(lambda: egoschema.parse_multi_choice_response(text, choices, index)[0]),
        "lmms_longvideobench": lambda text: _drawn(
            lambda: longvideobench.parse_multi_choice_response(text, list(LETTERS), {})
        ),
        "lmms_nextqa": lambda text: _drawn(
            lambda: nextqa.parse_multi_choice_response(
                text, list(LETTERS), dict(zip(LETTERS, given["options"], strict=True))
            )
        ),
        "lmms_tempcompass": of_tempcompass,
    }
    json.dump({name: {text: ask(text) for text in given["strings"]} for name, ask in scorers.items()}, sys.stdout)


def _read(letters: str) -> tuple[str, str]:
    return letters, "reads" if letters else "unparsed"


def _drawn(parse: Callable[[], str]) -> tuple[str, str]:
    said = set()
    for seed in range(DRAWS):
        random.seed(seed)
        said.add(parse())
    return (said.pop(), "reads") if len(said) == 1 else ("", "random")


if __name__ == "__main__":
    main()
