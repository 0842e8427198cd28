"""Answers without a model, for tests of what reads, stores, stops and resumes: who answers is nothing to these."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from prunevid_qwen.evaluation.engine import local
from prunevid_qwen.evaluation.engine.answering import Answering
from prunevid_qwen.evaluation.engine.task import Line, Task, TaskQuestion
from prunevid_qwen.evaluation.engine.task_media import Read


@dataclass(frozen=True)
class StubQuestion(TaskQuestion):
    """A question that no model is asked."""

    id: str

    def messages(self, items: Any, media: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [*items]}]

    def about(self) -> Line:
        return {"id": self.id}


class StubAnswerer:
    """Stands for `Answerer`: its lines follow from the question, the config and what was read alone."""

    def __init__(self, model: None, configs: Any, generation: dict[str, Any]) -> None:
        self.configs = dict(configs)

    def answer(self, task: Task, read: Read) -> Iterator[Line]:
        for question, names in task.questions:
            for name in names:
                line = {**question.about(), "config": name, "error": read.error, "raw": None}
                yield line if read.error is not None else line | self._ask(question, name, read)

    def _ask(self, question: TaskQuestion, name: str, read: Read) -> Line:
        assert name in self.configs
        drawn = zlib.crc32(f"{name} {question.id}".encode())
        visual = sum(media.frames[..., 0].size // 784 for media in read.media)
        kept = 1 + drawn % visual
        tokens = {"visual": visual, "after_stage1": visual, "after_stage2": kept, "layer_average": (visual + kept) / 2}
        parts = ("read", "merge", "select", "compact", "prefill", "decode", "total")
        return {
            "raw": "ABC"[drawn % 3],
            "prompt": f"what is asked in {question.id}",
            "tokens": {**tokens, "prompt": visual + 9, "generated": 1},
            "kept_ratio": kept / visual,
            "seconds": dict.fromkeys(parts, read.seconds),
            "media": [media.facts for media in read.media],
        }


def install(patch: pytest.MonkeyPatch) -> None:
    """Let `StubAnswerer` answer wherever the local engine would load a model."""
    patch.setattr(Answering, "load", lambda self: SimpleNamespace(model=None))
    patch.setattr(local, "Answerer", StubAnswerer)
