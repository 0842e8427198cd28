"""How an answer about moving shapes is judged."""

from __future__ import annotations


def is_correct(given: str, expected: str) -> bool:
    """Judge an answer: its first word, without brackets and stops, must be the expected one, capitals included."""
    words = given.replace("(", " ").replace(")", " ").replace(".", " ").split()
    return bool(words) and words[0] == expected
