"""Answer: what `PrunedVLM.generate` returns for one question, a dict that also knows which tokens were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.inputs.messages import read_messages
from prunevid_qwen.kept import Kept
from prunevid_qwen.pictures.html import InNotebook, page


class Answer(dict[str, Any]):
    """A dict with "answer", "stats" and what else was asked for; its keys, JSON, ``==`` and pickles are a dict's.

    With ``keep_map=True`` it also holds which visual tokens were kept. That is no key, so it is in no JSON.
    """

    _kept: Kept | None = None

    @classmethod
    def of(cls, result: dict[str, Any], kept: Kept | None) -> Answer:
        """Return ``result`` with what became of its visual tokens, or without."""
        answer = cls(result)
        answer._kept = kept
        return answer

    @property
    def kept(self) -> Kept:
        """What became of each visual token.

        Raises:
            ConfigError: the call was not asked to hold it.
        """
        if self._kept is None:
            raise ConfigError(
                "this answer does not hold which tokens were kept: ask with keep_map=True, as in "
                "model.generate(video, question, keep_map=True)"
            )
        return self._kept

    def show(self, sources: Sequence[Any] | None = None) -> InNotebook:
        """Return the page of what was kept, for a notebook; elsewhere `prunevid_qwen.pictures.picture` writes it.

        Args:
            sources: the videos and images as they were asked about, if they came from memory and not from files.

        Raises:
            ConfigError: as ``kept``.
        """
        return InNotebook(page([self.kept], sources).decode())


def words_asked(question: str | Sequence[str] | None, messages: Sequence[Mapping[str, Any]] | None) -> list[str]:
    """Return the words of each question of a call, as `PrunedVLM.generate` takes them: of messages the last ones."""
    if messages is None:
        return [question or ""] if question is None or isinstance(question, str) else [str(each) for each in question]
    said = ""
    for role, content in read_messages(messages):
        if role == "user":
            parts = [content] if isinstance(content, str) else [item.held for item in content if item.kind == "text"]
            said = "\n".join(parts)
    return [said]
