"""Spellings of 0.1 that still work, with a hint, until the release after 0.2. Rewritten before a line is parsed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prunevid_qwen.errors import ConfigError

COMMANDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("train-glimpse",): ("train", "glimpse"),
    ("train-glimpse-plus",): ("train", "glimpse-plus"),
}
"""Words of a command that has another name now."""
OPTIONS: dict[tuple[str, ...], dict[str, str]] = {
    ("eval", "run"): {"--config": "--configs", "--compare": "--configs", "--dataset": "NAME"},
    ("eval", "export"): {"--file": "--out"},
    ("eval", "visual-cot"): {"--config": "--configs", "--check": "--dry_run"},
    ("bench", "speed"): {"--preset": "--configs", "--attention": "--attn_implementation"},
    ("train", "glimpse"): {"--check": "--dry_run"},
}
"""Options of a command, by its present words, that have another name now; NAME is its first word without dashes."""


def hint(old: str, new: str) -> str:
    """Say in a line what to type instead."""
    return f"note: `{old}` is now `{new}`; the old spelling works until 0.3"


def respelt(words: Sequence[str], tell: Callable[[str], object]) -> list[str]:
    """Return a command line in today's spelling.

    Args:
        words: as typed.
        tell: told of each old spelling, in a line.

    Raises:
        ConfigError: two spellings of one option stand there.
    """
    rest = list(words)
    for old, new in COMMANDS.items():
        if tuple(rest[: len(old)]) == old:
            tell(hint(" ".join(old), " ".join(new)))
            rest[: len(old)] = new
    command = next((each for each in OPTIONS if tuple(rest[: len(each)]) == each), ())
    renamed, seen = OPTIONS.get(command, {}), dict[str, str]()
    rest, made, first = rest[len(command) :], [], []
    while rest and rest[0] != "--":
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        name = option.replace("-", "_").replace("__", "--", 1)
        today = renamed.get(name, name)
        if today in renamed.values() and seen.setdefault(today, name) != name:
            raise ConfigError(f"{seen[today]} and {name} say the same thing twice: pass {today} alone")
        if name not in renamed:
            made.append(word)
            continue
        tell(hint(name, today))
        if today.startswith("--"):
            made.append(f"{today}{equals}{value}")
        elif equals or rest:
            first.append(value if equals else rest.pop(0))
    return [*command, *first, *made, *rest]
