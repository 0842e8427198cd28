"""How large the data sets are, for estimates: questions are published counts, bytes and tokens are reasoned guesses."""

from __future__ import annotations

from prunevid_qwen.evaluation.reproduction.cost import Work

_WHY = {
    "mvbench": "16 GB is branch video",
    "videomme": "900 videos x 17 minutes x 0.9 Mbit/s",
    "egoschema-subset": "500 clips x 180 s x 1 Mbit/s",
    "egoschema-full": "5031 clips x 180 s x 1 Mbit/s, less the subset's 500",
    "longvideobench": "3763 videos x 8 minutes x 0.9 Mbit/s: the download has all, val shows 753 of them",
    "vstar": "191 images of about 1 MB",
}
# questions, videos, GB
_SIZES = {
    "mvbench": (4000, 4000, 16.0),
    "videomme": (2700, 900, 103.0),
    "egoschema-subset": (500, 500, 11.0),
    "egoschema-full": (5031, 5031, 102.0),
    "longvideobench": (1337, 753, 203.0),
    "vstar": (191, 191, 0.2),
}


def work_of(name: str, tokens: int, answer: int = 3) -> Work:
    """Return how much a data set is, at so many visual tokens a prompt and tokens an answer."""
    questions, videos, gigabytes = _SIZES[name]
    return Work(questions, videos, tokens, gigabytes, _WHY[name], answer=answer)
