"""Loading a model, and answering a request with pruning and without it, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.cli.groups import BUNDLED
from prunevid_qwen.cli.request import Request
from prunevid_qwen.cli.verdict import Stats, judge, middle_turn, sentence
from prunevid_qwen.config import ALL_OFF

_WARM_UP_TOKENS = 2
_LEAST_TURNS, _MOST_TURNS = 3, 7
_LONGEST = 60.0  # seconds after which no turn beyond the least is begun


@dataclass(frozen=True)
class Outcome:
    """An answer and its receipt; under --compare also those of the unpruned model and what to conclude.

    Args:
        answer, stats: as ``PrunedVLM.generate(return_stats=True)`` gives them.
        baseline: the same two of the unpruned model, or None.
        verdict: what to conclude, in words, or None.
        comparison: the figures behind it and its outcome as one word, see `prunevid_qwen.cli.verdict.judge`, or None.
    """

    answer: str
    stats: Stats
    baseline: dict[str, Any] | None = None
    verdict: str | None = None
    comparison: dict[str, Any] | None = None

    def told(self, request: Request) -> dict[str, Any]:
        """Return what --json prints."""
        found: dict[str, Any] = {"question": request.question, "answer": self.answer, "stats": self.stats}
        if request.expected is not None:
            found["expected_answer"] = request.expected
        if self.baseline is not None:
            same = self.baseline["answer"] == self.answer
            found |= {"baseline": self.baseline, "same_answer": same, "verdict": self.verdict}
            found |= {"comparison": self.comparison, "warmed_up": True}
        return found


def load(request: Request) -> Any:
    """Load the model a request names; one that is not shown videos is refused before its weights are read."""
    from prunevid_qwen import PrunedVLM
    from prunevid_qwen.inputs.frontends import check_reads
    from prunevid_qwen.loading import HUB_ARGUMENTS

    request.output.calm_libraries()
    path, loading = request.model.model_path, request.model.loading
    loading = {name: value for name, value in loading.items() if value is not None}
    if request.videos and path != BUNDLED:
        check_reads(path, "video", {name: loading[name] for name in HUB_ARGUMENTS if name in loading})
    return PrunedVLM.from_pretrained(path, config=request.config, **loading)


def compare(
    model: Any,
    request: Request,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = lambda words: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Answer with and without pruning in turns, about media that are read once for both, and encoded once if they can.

    Each side answers once unmeasured, then seven times in turns; after a minute the third turn is the last.

    Args:
        model: what `load` returned.
        request: the question and the media.
        progress: called with the frames encoded so far and those of all videos.
        tell: called with what comes next, in words.
        clock: returns seconds.

    Returns:
        Answers and receipts of each side's middle turn.
    """
    quiet = request.config.replace(verbose=False)  # stages are logged of the warm-up alone, not of each turn
    sides = (model.with_config(quiet), model.with_config(quiet.replace(**ALL_OFF)))
    prepared = model.prepare(**request.shown(), progress=progress)
    tell("warming up, with and without pruning")
    for side in (model, sides[1]):
        side.answer(prepared, max_new_tokens=min(_WARM_UP_TOKENS, request.max_new_tokens))
    turns: list[tuple[dict[str, Any], dict[str, Any]]] = []
    began = clock()
    while len(turns) < _LEAST_TURNS or (len(turns) < _MOST_TURNS and clock() - began < _LONGEST):
        tell(f"answering with and without pruning, turn {len(turns) + 1} of at most {_MOST_TURNS}")
        pruned, full = (side.answer(prepared, max_new_tokens=request.max_new_tokens) for side in sides)
        turns.append((pruned, full))
    found = judge([(pruned["stats"], full["stats"]) for pruned, full in turns])
    found["encoded_once"] = prepared.encoded is not None
    pruned, full = (
        turns[middle_turn(found["decoder_seconds"][name])][at] for at, name in enumerate(("pruned", "unpruned"))
    )
    said = sentence(found, pruned["stats"], full["stats"])
    return Outcome(pruned["answer"], pruned["stats"], full, said, found)
