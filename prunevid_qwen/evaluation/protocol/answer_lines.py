"""Stored answers of any number of processes, checked and joined so that their order does not matter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.errors import ConfigError, excerpt, quoted

_NEEDED = ("id", "config", "raw", "answer", "options", "groups", "error")


@dataclass(frozen=True)
class AnswerLine:
    """What one configuration answered to one question."""

    id: str  # of the record
    config: str  # name of the configuration
    raw: str | None  # what the model generated, unchanged; None where there is an error
    answer: str | None  # the right letter, or None where the authors keep it
    options: tuple[str, ...]  # their texts, without letters
    groups: Mapping[str, str]  # of the record; without "video" every question stands alone
    error: str | None = None  # why there is no answer
    run: str | None = None  # hash of everything that could change an answer

    @property
    def video(self) -> str:
        """What the question shares with others."""
        return self.groups.get("video", self.id)

    @classmethod
    def from_dict(cls, line: Mapping[str, Any], where: str = "a line") -> AnswerLine:
        """Check a line; names that are not known here are passed over (tokens, times).

        Raises:
            ConfigError: a name is missing, a value is of the wrong type, or there is neither an answer nor an error.
        """
        missing = [name for name in _NEEDED if name not in line]
        if missing:
            raise ConfigError(f"{where} lacks {', '.join(missing)}: got {excerpt(', '.join(line)) or 'nothing'}")
        name, config, raw, answer, options, groups, error = (line[name] for name in _NEEDED)
        where = f"{where} ({name})"
        if error is None and not isinstance(raw, str):
            raise ConfigError(f"{where} has neither an answer nor an error: raw is {quoted(raw)}")
        if isinstance(options, str) or not isinstance(options, Sequence) or not options:
            raise ConfigError(
                f"{where} has the options {quoted(options)}: only multiple-choice questions are scored here, free "
                "answers by `prunevid eval visual-cot`"
            )
        if not isinstance(groups, Mapping):
            raise ConfigError(f"{where}: groups are names and values, got {quoted(groups)}")
        raw = raw if error is None else None
        return cls(str(name), str(config), raw, answer, tuple(options), dict(groups), error, line.get("run"))


@dataclass(frozen=True)
class Joined:
    """Lines of a run, one for each configuration and question, sorted."""

    lines: tuple[AnswerLine, ...]  # by configuration, then id
    conflicts: tuple[tuple[str, str], ...]  # (config, id) that were answered more than once, and differently


def join(lines: Iterable[AnswerLine]) -> Joined:
    """Keep one line for each configuration and question: an answer rather than an error; of several, the least.

    Which is least is a matter of their text alone, so the same lines give the same result in any order and from any
    number of workers; answers that differ are named.

    Raises:
        ConfigError: lines of one configuration come from different runs.
    """
    found: dict[tuple[str, str], list[AnswerLine]] = {}
    runs: dict[str, set[str]] = {}
    for line in lines:
        found.setdefault((line.config, line.id), []).append(line)
        if line.run is not None:
            runs.setdefault(line.config, set()).add(line.run)
    for config, hashes in sorted(runs.items()):
        if len(hashes) > 1:
            raise ConfigError(
                f"answers of {quoted(config)} come from {len(hashes)} different runs ({', '.join(sorted(hashes))}): "
                "something that could change an answer differs; aggregate each by itself"
            )
    kept = tuple(min(same, key=_order) for _, same in sorted(found.items()))
    answers = {key: {line.raw for line in same if line.error is None} for key, same in found.items()}
    return Joined(kept, tuple(key for key in sorted(answers) if len(answers[key]) > 1))


def _order(line: AnswerLine) -> tuple[Any, ...]:
    rest = json.dumps([line.answer, line.options, sorted(line.groups.items()), line.run])
    return line.error is not None, line.raw or "", line.error or "", rest
