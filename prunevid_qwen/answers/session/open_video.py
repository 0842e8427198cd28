"""OpenVideo: a video that was read and encoded once, and the conversation about it."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.answers.answer import Answer
from prunevid_qwen.answers.session.video_cache import READING
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.prefix import Prefixes, fingerprint, why_none
from prunevid_qwen.forward.pruning import plan_of
from prunevid_qwen.inputs.prepared import Prepared

Message = dict[str, Any]


_EACH_TIME = "this family's videos are encoded in each answer"


def _why_alone(model: Any) -> str | None:
    """Say why the questions of a session run the whole prompt each; None if they share what stands before them."""
    what = model.config if model.plan is None else model.plan
    adapter = adapter_for(model.model)
    return why_none(adapter, plan_of(what, len(adapter.parts.layers)))


class OpenVideo:
    """A video for many questions: `PrunedVLM.open` returns it.

    The video is read and encoded at once, and held until `close`, or the end of a with-block. Each question selects its
    own tokens, as `PrunedVLM.generate` would. The first one leaves its prefix behind, see
    `prunevid_qwen.forward.prefix`: later ones run themselves alone through the layers before the first cut.

    A family whose videos this package does not encode ahead (LLaVA's, InternVL) holds the frames alone and encodes them
    for each question: ``stats["session"]`` says so.

    Args:
        model: a `PrunedVLM`; its config is that of the session, and changing it later changes nothing here.
        video_path: as in `PrunedVLM.generate`: one video, or a list of videos that every question is about.
        start: seconds at which the frames begin.
        end: seconds at which the frames end.
        progress: called with the frames encoded so far and those of all videos.
    """

    def __init__(
        self, model: Any, video_path: Any, start: float | None, end: float | None, progress: Any = None
    ) -> None:
        self._model, self.hit = model, False
        prepare = partial(model.prepare, video_path, "?", start=start, end=end, progress=progress)
        cache = model.videos
        prepared, self.hit = (prepare(), False) if cache is None else cache.of(model, video_path, start, end, prepare)
        self._prepared: Prepared | None = prepared
        self._encoder, self._turn = self._weights(), threading.RLock()
        self._media = prepared.samples[0].media
        self._asked, self._alone = 0, _why_alone(model)
        self._prefixes: Prefixes | None = Prefixes()
        self.history: list[Message] = []
        """The conversation of `chat`: messages of the user and of the assistant, without the video."""

    def __enter__(self) -> OpenVideo:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the video; a second time does nothing."""
        self._prepared = None
        self._media = ()
        if self._prefixes is not None:
            self._prefixes.clear()

    def reset(self) -> None:
        """Forget the conversation, not the video."""
        self.history = []

    def under(self, config: Any) -> OpenVideo:
        """Return the same video and conversation under another config or plan; nothing is encoded again.

        The two go on apart. Each is closed by itself.

        Args:
            config: as `PrunedVLM.with_config` takes it; it reads the video as it was read.
        """
        other = copy.copy(self)
        other._model, other.history = self._model.with_config(config), list(self.history)
        ours, theirs = self._model.config.flat(), other._model.config.flat()
        read = [name for name in READING if ours.get(name) != theirs.get(name)]
        if read:
            raise ConfigError(
                f"this video was read with another {' and '.join(read)}: use model.open() for that config"
            )
        other._turn = threading.RLock()
        other._prefixes, other._alone = Prefixes(), _why_alone(other._model)
        return other

    @property
    def bytes(self) -> int:
        """Bytes of the encoded video; 0 for a family that encodes it in each answer."""
        return 0 if self._prepared is None else self._prepared.bytes

    @property
    def prefix_bytes(self) -> int:
        """Bytes of what later questions find ready."""
        return 0 if self._prefixes is None else self._prefixes.bytes

    def ask(self, question: str | Sequence[str], **arguments: Any) -> Any:
        """Answer a question, or several, each without regard to any other.

        Several are answered one after the other where they share the prefix, else in one padded batch.

        Args:
            question: a string, or a list of strings.
            arguments: as `PrunedVLM.generate` takes them behind its media: max_new_tokens, streamer, keep_map, ...

        Returns:
            An `Answer`, or a list of them. Its "stats" say in "session" what was reused.

        Raises:
            ConfigError: no question, the session is closed, or a streamer for several questions.
        """
        single = not isinstance(question, (list, tuple))
        asked: list[Any] = [question] if single else list(question)
        if not asked or not all(isinstance(each, str) and each.strip() for each in asked):
            raise ConfigError(f"ask takes a question, or a list of questions: got {question!r}")
        if arguments.get("streamer") is not None and len(asked) > 1:
            raise ConfigError("a streamer needs a single question, got several: pass one question, or no streamer")
        whole = [[self._first(each)] for each in asked]
        with self._turn:
            if self._alone is None:  # the prefix is held for one row
                answers = [
                    self._answered([talk], [each], arguments)[0] for talk, each in zip(whole, asked, strict=True)
                ]
            else:
                answers = self._answered(whole, asked, arguments)
        return answers[0] if single else answers

    def without_prefix(self, question: Any, arguments: dict[str, Any]) -> Any:
        """Answer as `ask`, and keep nothing for the next question: a call of `generate` over the cache of videos."""
        self._prefixes, self._alone = None, "a call of generate() keeps no prefix"
        return self.ask(question, **arguments)

    def chat(self, text: str, **arguments: Any) -> Answer:
        """Go on with the conversation: the model sees it whole, and selects tokens anew by the last question.

        Args:
            text: of the user.
            arguments: as in `ask`.

        Raises:
            ConfigError: no text, or the session is closed.
        """
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"chat takes what the user says: got {text!r}")
        with self._turn:
            said: list[Message] = [*self.history, {"role": "user", "content": text}]
            first, *rest = said
            answer: Answer = self._answered([[self._first(first["content"]), *rest]], [text], arguments)[0]
            # only an answer that came to its end is remembered
            self.history = [*said, {"role": "assistant", "content": answer["answer"]}]
        return answer

    def _weights(self) -> tuple[Any, ...]:
        return fingerprint(adapter_for(self._model.model).parts.vision)

    def _first(self, text: str) -> Message:
        media = [{"type": each.kind, each.kind: each} for each in self._media]
        return {"role": "user", "content": [*media, {"type": "text", "text": text}]}

    def _answered(
        self, conversations: Sequence[list[Message]], asked: Sequence[str], arguments: dict[str, Any]
    ) -> list[Answer]:
        prepared = self._prepared
        if prepared is None:
            raise ConfigError("this session is closed: open the video again, video = model.open(...)")
        if self._weights() != self._encoder:
            raise ConfigError("the vision encoder's weights have changed since: open the video again, model.open(...)")
        arguments = dict(arguments)
        with_stats = arguments.pop("return_stats", None)
        began = time.perf_counter()
        samples = tuple(self._model.frontend.sample(each, self._model.config) for each in conversations)
        inputs = self._model.frontend.batch(samples)
        encoded, first = prepared.encoded is not None, not self._asked and not self.hit
        spent = time.perf_counter() - began
        seconds = prepared.seconds if first else {"read": spent, "vision": 0.0, "total": spent}
        turn = replace(
            prepared, samples=samples, inputs=inputs, single=False, seconds=seconds, asked=tuple(asked),
            prefixes=self._prefixes,
        )  # fmt: skip
        answers: list[Answer] = self._model.answer(turn, **arguments)
        for answer in answers:
            self._asked += 1
            if self._prefixes is not None:
                answer["stats"]["session"] = {
                    "question": self._asked,
                    "vision": "reused" if encoded and not first else "encoded",
                    "prefix": self._prefixes.outcome,
                    "why": self._prefixes.why or (None if encoded else _EACH_TIME),
                    "video_bytes": self.bytes,
                    "prefix_bytes": self._prefixes.bytes,
                }
            if self._model.videos is not None:
                answer["stats"]["video_cache"] = self._model.videos.facts(self.hit)
            if not (self._model.config.collect_stats if with_stats is None else with_stats):
                del answer["stats"]
        return answers
