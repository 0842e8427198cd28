"""The exceptions of this package, with their exit codes on the command line, and the shortening of long input."""

from __future__ import annotations

import re

QUOTED = 200  # largest number of characters of a quoted input in a message


class PruneVidError(Exception):
    """Base class of all errors that this package raises on purpose. Exit code 1 on the command line."""

    exit_code = 1

    def __init__(self, *given: object) -> None:
        super().__init__(*(abridged(each) if isinstance(each, str) else each for each in given))


class ConfigError(PruneVidError, ValueError):
    """An option, preset or argument is wrong: the message has the expected value and the next step. Exit code 2."""

    exit_code = 2


class UnknownOption(ConfigError, TypeError):
    """An option does not exist. It is also a TypeError, as is Python's own error for an unknown argument."""


class UnsupportedError(ConfigError):
    """Pruning does not support a model family, a kind of cache or a way of generating."""


class SetupError(PruneVidError, RuntimeError):
    """Something outside the call is missing: a device, a package, a supported version, the network. Exit code 3."""

    exit_code = 3


class MediaError(PruneVidError, ValueError):
    """A video or image is missing, empty or unreadable, or has no frame in the requested range. Exit code 4."""

    exit_code = 4


class PruningNotApplied(PruneVidError, RuntimeError):
    """Pruning was requested and possible, and did not happen. Exit code 5."""

    exit_code = 5


class ContractBroken(PruneVidError, AssertionError):
    """A method breaks the contract of reducers, see `check_reducer`.

    Args:
        given: the message: the broken promise, the sample, and a way to fix it.
        promise: name of the broken promise, in a word or two.
    """

    def __init__(self, *given: object, promise: str = "") -> None:
        super().__init__(*given)
        self.promise = promise


def excerpt(value: object, limit: int = QUOTED) -> str:
    """Return a value for a message: text unchanged, any other value as its repr, a long one without its middle."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= limit:
        return text
    half = (limit - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def quoted(value: object, limit: int = QUOTED) -> str:
    """Return the repr of a value for a message, shortened as by `excerpt`."""
    return excerpt(repr(value), limit)


def abridged(message: str) -> str:
    """Return a message without the middle of each word above `QUOTED` characters, such as a path or a data URI."""
    return re.sub(rf"\S{{{QUOTED + 1},}}", lambda word: excerpt(word[0]), message)
