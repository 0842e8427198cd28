"""Keys of a receipt for some calls alone: an open video, the cache of encoded videos, when a question looked."""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypedDict


class Key(NamedTuple):
    """What a key says.

    Args:
        meaning: in a sentence.
        unit: of its number, or "".
    """

    meaning: str
    unit: str = ""


class Session(TypedDict):
    """Questions about an open video: what was not done again for this one."""

    question: Annotated[int, Key("number of this question in the session, from 1")]
    vision: Annotated[str, Key('"encoded" for this answer, or "reused"')]
    prefix: Annotated[
        str | None, Key('what stands before the question, up to the first cut: "made", "reused", or null')
    ]
    why: Annotated[str | None, Key("why the prefix, or the encoded video, was not reused, where it never is")]
    video_bytes: Annotated[int, Key("that the session holds of the encoded video", "bytes")]
    prefix_bytes: Annotated[int, Key("that it holds of keys, values and states", "bytes")]


class LookedAt(TypedDict):
    """Where the attention that decided lay in one video. It is no proof of why the answer is what it is."""

    video: Annotated[int, Key("its index in ``input.videos``, from 0")]
    spans: Annotated[
        list[list[float]],
        Key("start and end of each span that holds clearly more than its share, in order; empty: none does", "seconds"),
    ]


class VideoCacheFacts(TypedDict):
    """The cache of encoded videos, after this answer."""

    hit: Annotated[bool, Key("the videos of this call were held")]
    videos: Annotated[int, Key("calls whose videos are held")]
    bytes: Annotated[int, Key("of their features", "bytes")]
    limit_bytes: Annotated[int, Key("at most", "bytes")]
