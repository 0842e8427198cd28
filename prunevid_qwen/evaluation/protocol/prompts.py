"""A question as each harness writes it, to the letter. Strings are facts about those harnesses, with their source.

Left out because their exact text is not known: Qwen's own MVBench prompt (a reply in QwenLM/Qwen3-VL issue 715, of
which only a part is stored), lmms-eval's MLVU prompt (its data set holds questions already laid out) and VLMEvalKit's.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError, quoted

if TYPE_CHECKING:
    from prunevid_qwen.evaluation.datasets.record import Record, Subtitle

DATASETS = ("mvbench", "videomme", "egoschema", "longvideobench", "mlvu", "vstar")


@dataclass(frozen=True)
class Written:
    """A question as text.

    Args:
        system: the system message, or None for the one that the chat template writes by itself.
        user: what follows the video in the user's message.
        prefill: how the assistant's answer begins, or "".
    """

    system: str | None
    user: str
    prefill: str = ""

    def messages(self, media: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return chat messages with ``media`` (items such as ``{"type": "video", "video": path}``) before the text."""
        said: list[dict[str, Any]] = [] if self.system is None else [{"role": "system", "content": self.system}]
        said.append({"role": "user", "content": [*map(dict, media), {"type": "text", "text": self.user}]})
        if self.prefill:
            said.append({"role": "assistant", "content": self.prefill})
        return said


@dataclass(frozen=True)
class Prompt:
    """How a harness writes a question of one or more data sets.

    The user's text is head, question_lead, the question, options_lead, the options (a line each), tail.

    Args:
        name: as in `Protocol.prompt`.
        datasets: for which it is that harness's.
        source: which harness, which release or file, as the project's specs name it.
        question_lead: before the question.
        options_lead: between question and options.
        label: how an option is marked; ``X`` stands for its letter.
        tail: after the options; for an open question it is left out with ``options_lead``.
        head: before everything but subtitles.
        system: as in `Written`.
        prefill: as in `Written`.
        subtitles_lead: before the subtitles, a line each; None where the harness shows none.
        without_subtitles: instead of lead and subtitles where a video has none.
    """

    name: str
    datasets: tuple[str, ...]
    source: str
    question_lead: str
    options_lead: str
    label: str
    tail: str
    head: str = ""
    system: str | None = None
    prefill: str = ""
    subtitles_lead: str | None = None
    without_subtitles: str = ""

    def write(self, record: Record, subtitles: Sequence[str] | None = None) -> Written:
        """Write a question; braces, percent signs and line breaks in it stay as they are.

        Args:
            record: with its options' texts, without letters.
            subtitles: what is said, in order; an empty list where a video has none; None not to show any.

        Raises:
            ConfigError: subtitles for a prompt that shows none.
        """
        user = self.head + self.question_lead + record.question
        if record.options:
            marked = zip(string.ascii_uppercase, record.options, strict=False)
            lines = [self.label.replace("X", letter) + text for letter, text in marked]
            user += self.options_lead + "\n".join(lines) + self.tail
        return Written(self.system, self._said(subtitles) + user, self.prefill)

    def _said(self, subtitles: Sequence[str] | None) -> str:
        if subtitles is None:
            return ""
        if self.subtitles_lead is None:
            raise ConfigError(f"prompt {quoted(self.name)} shows no subtitles: pass subtitles=None, or another prompt")
        return self.subtitles_lead + "\n".join(subtitles) + "\n" if subtitles else self.without_subtitles

    def to_dict(self) -> dict[str, Any]:
        """Return every string of it, for a run's record and hash."""
        return dataclasses.asdict(self)


def subtitles_at(subtitles: Sequence[Subtitle], seconds: Sequence[float]) -> tuple[str, ...]:
    """Return what is said at any of these moments, each cue once, in the file's order (start <= moment < end)."""
    return tuple(cue.text for cue in subtitles if any(cue.start <= moment < cue.end for moment in seconds))


_MVBENCH_SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question."
)
_MLVU_SYSTEM = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option "
    "that accurately addresses the question."
)
_SELECT = (
    "Select the best answer to the following multiple-choice question based on the video{}. Respond with only the "
    "letter (A, B, C, or D) of the correct option.\n"
)
_FROM_VIDEO, _FROM_BOTH = _SELECT.format(""), _SELECT.format(" and the subtitles")
_LETTER = "Answer with the option's letter from the given choices directly."
_LAID_OUT = {"question_lead": "Question: ", "options_lead": "\nOptions:\n", "label": "(X) "}
_PLAIN = {"question_lead": "", "options_lead": "\n", "label": "X. "}

PROMPTS = (
    Prompt(
        "videochat2", ("mvbench", "egoschema"),
        "VideoChat2's MVBench notebook (Ask-Anything, video_chat2/mvbench.ipynb); PruneVid asks EgoSchema so too",
        **_LAID_OUT, tail="\nOnly give the best option.", system=_MVBENCH_SYSTEM + "\n", prefill="Best option:(",
    ),
    Prompt(
        "mlvu", ("mlvu",), "MLVU's multiple-choice evaluation script; it lays questions out as MVBench does",
        **_LAID_OUT, tail="\nOnly give the best option.", system=_MLVU_SYSTEM, prefill="Best Option: (",
    ),
    Prompt(
        "lmms", ("mvbench",), "lmms-eval 0.7.3, tasks/mvbench",
        question_lead="Question:", options_lead="\nOption:\n", label="(X) ", tail="\nOnly give the best option.\n",
    ),
    Prompt(
        "lmms", ("videomme",), "lmms-eval 0.7.3, tasks/videomme (its text names subtitles that it does not show)",
        **_PLAIN, head=_FROM_BOTH, tail=f"\n\n{_LETTER}",
    ),
    Prompt(
        "lmms_subtitles", ("videomme",), "lmms-eval 0.7.3, tasks/videomme_w_subtitle",
        **_PLAIN, head=_FROM_BOTH, tail="\nThe best answer is:",
        subtitles_lead="This video's subtitles are listed below: \n",
        without_subtitles="This video's subtitles are listed below: \nNo subtitles available\n",
    ),
    Prompt("lmms", ("egoschema",), "lmms-eval 0.7.3, tasks/egoschema", **_PLAIN, tail=f"\n{_LETTER}"),
    Prompt(
        "lmms", ("longvideobench",), "lmms-eval 0.7.3, tasks/longvideobench (val_v)", **_PLAIN, tail=f"\n{_LETTER}\n",
    ),
    Prompt(
        "videomme_official", ("videomme",), "README of BradyFU/Video-MME",
        **_PLAIN, head=_FROM_VIDEO, tail="\nThe best answer is:",
        subtitles_lead="This video's subtitles are listed below:\n",
    ),
    Prompt(
        "qwen", ("videomme",), "Qwen's own script (QwenLM/Qwen3-VL, evaluation/VideoMME)",
        **{**_PLAIN, "question_lead": "Question: "}, head=_FROM_VIDEO, tail="\nThe best answer is:",
    ),
    Prompt(
        "letter", DATASETS, "ours, for data sets without a prompt of their own: lmms-eval's for EgoSchema",
        **_PLAIN, tail=f"\n{_LETTER}",
    ),
    Prompt(
        "letter_subtitles", ("videomme", "longvideobench"),
        "ours: the same after the subtitles, as Video-MME shows them; LongVideoBench's own text with subtitles between "
        "the frames is not here",
        **_PLAIN, tail=f"\n{_LETTER}", subtitles_lead="This video's subtitles are listed below:\n",
    ),
)  # fmt: skip


def prompt_of(name: str, dataset: str) -> Prompt:
    """Find the prompt of a harness for a data set.

    Raises:
        ConfigError: an unknown data set, or a harness that has none for it; those that have are named.
    """
    if dataset not in DATASETS:
        raise ConfigError(unknown("a data set is one of", dataset, DATASETS))
    there = {prompt.name: prompt for prompt in PROMPTS if dataset in prompt.datasets}
    if name not in there:
        elsewhere = [each for prompt in PROMPTS if prompt.name == name for each in prompt.datasets]
        known = f" ({quoted(name)} is known for {', '.join(elsewhere)})" if elsewhere else ""
        raise ConfigError(f"{dataset} can be asked by prompt {', '.join(there)}; got {quoted(name)}{known}")
    return there[name]
