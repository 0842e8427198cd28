"""A question as each harness writes it, to the letter: the strings stand in prompts.yaml, with their source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.datasets.dataset_layout import names
from prunevid_qwen.evaluation.datasets.record import Record, Subtitle
from prunevid_qwen.evaluation.yaml_data import Marked, build, read_as


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """How a harness writes a question of one or more data sets.

    The user's text is head, question_lead, the question, options_lead, the options (a line each), tail.
    """

    name: str  # as in `EvalProtocol.prompt`
    datasets: tuple[str, ...] = ()  # the benchmarks for which it is that harness's; () is all
    source: str  # which harness, which release or file
    question_lead: str  # before the question
    options_lead: str  # between question and options
    label: str  # how an option is marked; X stands for its letter
    tail: str  # after the options; for an open question it is left out with options_lead
    head: str = ""  # before everything but subtitles
    system: str | None = None  # the system message, or None for the one that the chat template writes by itself
    prefill: str = ""  # how the assistant's answer begins
    subtitles_lead: str | None = None  # before the subtitles, a line each; None where the harness shows none
    without_subtitles: str = ""  # instead of lead and subtitles where a video has none

    def write(self, record: Record, subtitles: Sequence[str] | None = None) -> str:
        """Return the user's text after the media.

        ``subtitles`` are what is said, [] where a video has none; None shows none. A prompt without them raises
        `ConfigError`.
        """
        user = self.head + self.question_lead + record.question
        if record.options:
            options = zip(record.letters, record.options, strict=True)
            lines = [self.label.replace("X", letter) + text for letter, text in options]
            user += self.options_lead + "\n".join(lines) + self.tail
        said = ""
        if subtitles is not None:
            if self.subtitles_lead is None:
                raise ConfigError(f"prompt {quoted(self.name)} shows no subtitles: pass None, or another prompt")
            said = self.subtitles_lead + "\n".join(subtitles) + "\n" if subtitles else self.without_subtitles
        return said + user

    def messages(
        self, media: Sequence[Mapping[str, Any]], record: Record, subtitles: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return chat messages with ``media`` (items such as ``{"type": "video", "video": path}``) before the text."""
        text = {"type": "text", "text": self.write(record, subtitles)}
        said: list[dict[str, Any]] = [{"role": "user", "content": [*map(dict, media), text]}]
        if self.system is not None:
            said.insert(0, {"role": "system", "content": self.system})
        return [*said, {"role": "assistant", "content": self.prefill}] if self.prefill else said

    def is_for(self, dataset: str) -> bool:
        """Whether a benchmark can be asked so."""
        return not self.datasets or dataset in self.datasets

    def to_dict(self) -> dict[str, Any]:
        """Return every string that a model is shown, and the name, for a run's record and hash."""
        return {name: text for name, text in dataclasses.asdict(self).items() if name not in ("datasets", "source")}


def subtitles_at(subtitles: Sequence[Subtitle], seconds: Sequence[float]) -> tuple[str, ...]:
    """Return what is said at any of these moments, each cue once, in the file's order (start <= moment < end)."""
    return tuple(cue.text for cue in subtitles if any(cue.start <= moment < cue.end for moment in seconds))


@cache
def prompts() -> tuple[Prompt, ...]:
    """Return the prompts of prompts.yaml; a `ConfigError` says where the file is wrong."""
    found = []
    for name, forms in read_as(Path(__file__).with_name("prompts.yaml"), dict[str, tuple[Marked, ...]]).items():
        for form in forms:
            prompt = build(Marked({"name": Marked(name, form.where), **form.value}, form.where), Prompt, "a prompt")
            for dataset in prompt.datasets:
                if dataset not in names():
                    raise form.error(unknown("a data set is one of", dataset, names()))
            found.append(prompt)
    return tuple(found)


def prompt_of(name: str, dataset: str) -> Prompt:
    """Find the prompt of a harness for a data set; a `ConfigError` says which there are."""
    if dataset not in names():
        raise ConfigError(unknown("a data set is one of", dataset, names()))
    there = {prompt.name: prompt for prompt in prompts() if prompt.is_for(dataset)}
    if name not in there:
        elsewhere = [each for prompt in prompts() if prompt.name == name for each in prompt.datasets]
        known = f" ({quoted(name)} is known for {', '.join(elsewhere)})" if elsewhere else ""
        raise ConfigError(f"{dataset} can be asked by prompt {', '.join(there)}; got {quoted(name)}{known}")
    return there[name]
