"""Two scores that need no judge: the answer is the reference, or it contains the reference.

Both compare normalised text: Unicode compatibility forms (NFKC), no case, single spaces, no punctuation and quotes at
either end, no articles (a, an, the). Punctuation inside stays, so that "3.5" is not "35" and "dr. who" not "dr who". A
text of articles alone keeps them: "A" may be the letter of an option.
"""

from __future__ import annotations

import re
import unicodedata

_ARTICLES = ("a", "an", "the")
_AT_THE_ENDS = " \t\n.,;:!?\"'`*\u201c\u201d\u2018\u2019\u00ab\u00bb"  # typographic quotes too


def normalised(text: str) -> str:
    """Return a text without what two people would write differently; see the module."""
    plain = unicodedata.normalize("NFKC", text).casefold().strip(_AT_THE_ENDS)
    words = plain.split()
    return " ".join([word for word in words if word not in _ARTICLES] or words).strip(_AT_THE_ENDS)


def exact(answer: str, reference: str) -> bool:
    """Whether both are equal once normalised; an empty answer never is."""
    return bool(normalised(answer)) and normalised(answer) == normalised(reference)


def contained(answer: str, reference: str) -> bool:
    """Whether the normalised reference stands in the normalised answer as whole words.

    "red" is in "It is red, I think" and not in "bored"; "5" is neither in "15" nor in "3.5" nor in "5,000". Generous to
    long answers, which a judge is not; blind to paraphrases, which a judge is not either.
    """
    wanted = normalised(reference)
    if not wanted:
        return False
    whole = rf"(?<!\w)(?<!\d[.,]){re.escape(wanted)}(?!\w)(?![.,]\d)"
    return re.search(whole, normalised(answer)) is not None
