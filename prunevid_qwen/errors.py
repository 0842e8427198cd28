"""The exceptions a user can meet, and the exit code each one has on the command line; how much they quote."""

from __future__ import annotations

import re

QUOTED = 200  # characters of anybody's input that a message holds at most


class PruneVidError(Exception):
    """Base of every error raised on purpose by this package; no word of its message is longer than `QUOTED`."""

    exit_code = 1

    def __init__(self, *given: object) -> None:
        super().__init__(*(abridged(each) if isinstance(each, str) else each for each in given))


class ConfigError(PruneVidError, ValueError):
    """An option, preset or argument is wrong: it names what came, what was expected and the next step."""

    exit_code = 2


class UnknownOption(ConfigError, TypeError):
    """A name that no option has; a TypeError too, as Python's own error for it is."""


class UnsupportedError(ConfigError):
    """A model family, cache or generation mode that pruning cannot serve correctly."""


class SetupError(PruneVidError, RuntimeError):
    """Something outside the call is missing: a device, a package, a supported version, the network."""

    exit_code = 3


class MediaError(PruneVidError, ValueError):
    """A video or image is missing, empty, unreadable, or holds no frame in the asked range."""

    exit_code = 4


class PruningNotApplied(PruneVidError, RuntimeError):
    """Pruning was asked for, there was something to prune, and it did not happen."""

    exit_code = 5


class ContractBroken(PruneVidError, AssertionError):
    """A method breaks a promise of all reducers, see `check_reducer`: which one, on what, and how to mend it.

    Args:
        given: the message.
        promise: which one, in a word or two.
    """

    def __init__(self, *given: object, promise: str = "") -> None:
        super().__init__(*given)
        self.promise = promise


def excerpt(value: object, limit: int = QUOTED) -> str:
    """Return what somebody passed for a message: a text as it is, else its repr; the middle of a long one left out."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= limit:
        return text
    half = (limit - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def quoted(value: object, limit: int = QUOTED) -> str:
    """Return the repr of what somebody passed, as `excerpt` does."""
    return excerpt(repr(value), limit)


def abridged(message: str) -> str:
    """Return a message in which the middle of each word above `QUOTED` characters is left out: a path, a data URI."""
    return re.sub(rf"\S{{{QUOTED + 1},}}", lambda word: excerpt(word[0]), message)
