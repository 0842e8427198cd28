"""PrunedVLM: a stock vision-language model that answers questions about videos and images with pruned tokens."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.adapters import adapter_for, visual_tokens
from prunevid_qwen.adapters.attachments import Turns
from prunevid_qwen.answers.answer import words_asked
from prunevid_qwen.answers.follow_up import (
    cache_given,
    check_starts_anew,
    follow_up,
    remember,
    shown_in,
    with_cache_named,
)
from prunevid_qwen.answers.results import results_of
from prunevid_qwen.answers.session import OpenVideo, VideoCache, cacheable
from prunevid_qwen.answers.streamer import check_streamed, ends_streamer
from prunevid_qwen.bundled import is_bundled, source_of
from prunevid_qwen.config import ALL_OFF, PruneVidConfig, get_paper_config
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.forward.pruning import Pruning, check_kinds, plan_of
from prunevid_qwen.inputs.encoding import Encoding, Progress
from prunevid_qwen.inputs.frontends import Frontend, frontend_for, opened_samples, read_by_library, suited
from prunevid_qwen.inputs.prepared import Prepared, limited, returns_tensors
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.loading import HUB_ARGUMENTS, choose_device, load_model
from prunevid_qwen.receipt import check_applied, log_warnings
from prunevid_qwen.tokens.device import input_device


class PrunedVLM:
    """A stock model that answers questions about videos and images with pruned tokens.

    `PruneVidQwen25VL` is the same class. `prunevid models` lists the families and the media that each accepts.

    Args:
        model_path: a hub id, a folder, "bundled" or "bundled-qwen3vl" (toys in the package), or a loaded model. That
            needs its ``processor``; a Qwen-VL may have its ``tokenizer`` instead.
        config: the pruning: a `PruneVidConfig`, a `Plan`, or a list of methods as in `pruned`. None is
            `get_paper_config`. A plan or a list reads videos and reports with the defaults of `PruneVidConfig`.
        device: "cuda", "cpu", ... None takes a GPU if there is one. Not together with ``device_map``.
        tokenizer: tokenizer of a loaded Qwen-VL.
        processor: processor of a loaded model. For a Qwen-VL its settings and its tokenizer are used.
        video_cache_bytes: hold encoded videos for later calls, the last used ones, see ``videos``. None holds none.
        arguments: arguments of transformers' ``from_pretrained``: ``dtype`` (by default the checkpoint's, float32 for
            a toy), ``device_map``, ``attn_implementation``, ``quantization_config``, ``revision``, ``token``,
            ``cache_dir``, ``local_files_only``.

    Raises:
        ConfigError: two arguments exclude each other, or ``model_path`` is neither a folder nor a hub id.
        SetupError: the model, its processor, the device or the network is missing.
        UnsupportedError: pruning does not support the model's family.
    """

    def __init__(
        self,
        model_path: Any = "Qwen/Qwen2.5-VL-7B-Instruct",
        config: Pruning | None = None,
        device: str | None = None,
        *,
        tokenizer: Any = None,
        processor: Any = None,
        video_cache_bytes: int | None = None,
        **arguments: Any,
    ) -> None:
        self.videos = None if video_cache_bytes is None else VideoCache(video_cache_bytes)
        what = get_paper_config() if config is None else config
        check_kinds(what)
        if isinstance(model_path, (str, Path)):
            self.name = str(model_path)
            if device is not None and arguments.get("device_map") is not None:
                raise ConfigError("device and device_map both place the model: pass one of them")
            if tokenizer is not None or processor is not None:
                raise ConfigError("tokenizer and processor are for a loaded model: leave them out with a path")
            source = source_of(self.name)
            arguments = {name: value for name, value in arguments.items() if value is not None}
            arguments.setdefault("dtype", "float32" if is_bundled(self.name) else "auto")
            self.model = load_model(source, device, arguments)
            hub = {name: value for name, value in arguments.items() if name in HUB_ARGUMENTS}
            family = self.model.config.model_type
            self.frontend: Frontend = frontend_for(family).from_pretrained(source, family, **hub)
        else:
            if arguments:
                raise ConfigError(
                    f"{', '.join(arguments)} are for loading, but a loaded model was passed: leave them out"
                )
            adapter_for(model_path)
            self.name = str(getattr(model_path, "name_or_path", "") or type(model_path).__name__)
            self.model = model_path if device is None else model_path.to(choose_device(device))
            family = adapter_for(self.model).family
            self.frontend = frontend_for(family).beside(self.model, tokenizer, processor)
        self._lock = Turns()  # one model can be hooked once at a time: threads take turns
        self._prune_by(what)

    def _prune_by(self, what: Pruning) -> None:
        """Store the config or the plan; `ConfigError` if it does not fit the model."""
        self.plan: Plan | None = None
        if isinstance(what, PruneVidConfig):
            self.config = what
        else:
            self.plan = plan_of(what, len(adapter_for(self.model).parts.layers))
            own: Any = {**dataclasses.asdict(self.plan.vision), "position_scheme": self.plan.position_scheme}
            self.config = PruneVidConfig(**ALL_OFF, **own, vision_chunk_tokens=self.plan.vision_chunk_tokens)
        with self._lock, pruned(self.model, self._what):
            self._reading = suited(self.frontend, self.model, self._what)

    @property
    def _what(self) -> PruneVidConfig | Plan:
        return self.config if self.plan is None else self.plan

    @classmethod
    def from_pretrained(cls, model_path: Any, config: Pruning | None = None, **arguments: Any) -> Any:
        """Return ``cls(model_path, config, **arguments)``: the constructor under transformers' name."""
        return cls(model_path, config, **arguments)

    def with_config(self, config: Pruning) -> PrunedVLM:
        """Return a copy with another config or plan that shares the weights. Threads take turns at them."""
        check_kinds(config)
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._prune_by(config)
        return twin

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.frontend.tokenizer

    @property
    def preprocessor(self) -> Preprocessor:
        """The object that makes a Qwen-VL's inputs from messages; `UnsupportedError` for other families."""
        if not isinstance(self.frontend, Preprocessor):
            raise read_by_library(self.name, self.model.config.model_type)
        return self.frontend

    @ends_streamer
    def generate(
        self,
        video_path: Any = None,
        question: str | Sequence[str] | None = None,
        *,
        images: Any = None,
        messages: Sequence[dict[str, Any]] | None = None,
        start: float | None = None,
        end: float | None = None,
        max_new_tokens: int | None = None,
        return_stats: bool | None = None,
        streamer: Any = None,
        progress: Progress | None = None,
        keep_map: bool = False,
        **generate_arguments: Any,
    ) -> Any:
        """Answer a question, or several in one padded batch.

        A video is read, resized and encoded in chunks of ``config.vision_chunk_tokens`` visual tokens. The next chunk
        is read while one is encoded, so an hour needs little more memory than a minute. A shared video is encoded once.

        Args:
            video_path: a file, a folder of frames, a list of images (the frames of one video), an array
                ``[T, H, W, 3]``, or a list of these for several videos in one prompt. Several questions share it, or
                have a list with one entry for each.
            question: a string, or a list of strings.
            images: a path, PIL image or array, or a list of them. Several questions share it.
            messages: a conversation in chat format, instead of video, images and question; see `Preprocessor.sample`.
                With the ``past_key_values`` of the last answer, the last message is a text follow-up: pass the whole
                conversation, and only the new text is read. The call changes the cache in place.
            start: seconds at which the frames begin.
            end: seconds at which the frames end.
            max_new_tokens: most tokens of an answer. 512 by default, without ``generation_config`` and ``max_length``.
            return_stats: add the receipt under "stats". None means ``config.collect_stats``.
            streamer: a transformers streamer, for a single question.
            progress: called after each chunk of a video with the numbers of frames encoded so far and in all.
            keep_map: let the answer's ``kept`` say what became of each visual token.
            generate_arguments: other arguments of transformers' ``generate``.

        Returns:
            An `Answer`, ``{"answer": str, "stats": dict}``, for one question, a list of these for several. With
            ``num_return_sequences`` above 1, "answers" has all sequences. With ``return_dict_in_generate=True`` there
            are also "output", the return value of ``generate``, and "past_key_values", the cache for a follow-up.

        Raises:
            ConfigError: no question, arguments that exclude each other, or a conversation other than the cache's.
            UnsupportedError: a follow-up has a new video or image, or several rows.
            MediaError: a video or image is missing or unreadable.
            PruningNotApplied: the requested pruning did not happen.
        """
        began = time.perf_counter()
        generate_arguments = limited({"max_new_tokens": max_new_tokens, **generate_arguments})
        generate_arguments = with_cache_named(self.model, generate_arguments)
        asked = (messages, video_path, images, start, end)
        with_stats = self.config.collect_stats if return_stats is None else return_stats
        words = words_asked(question, messages) if keep_map else None
        if cache_given(generate_arguments) is not None:
            return follow_up(self, asked, question, streamer, with_stats, words, generate_arguments)
        # a caller who gets tensors may go on from the cache of this answer, which is remembered below alone
        returned = returns_tensors(self.model, generate_arguments)
        if self.videos is not None and cacheable(question, *asked[:3]) and not returned:
            more = {"streamer": streamer, "keep_map": keep_map, "return_stats": return_stats, **generate_arguments}
            return OpenVideo(self, video_path, start, end, progress).without_prefix(question, more)
        tower, device = self._tower, input_device(self.model)
        given = (video_path, question, images, messages, start, end)
        with opened_samples(self._reading, self.config, tower, *given) as (opened, single):
            check_streamed(streamer, single)
            read = time.perf_counter() - began
            # whoever gets tensors may want to change them in place, which inference mode forbids for good
            shown = shown_in(*asked) if single and returned else None
            inference = torch.inference_mode(not returned)
            with self._lock, inference, pruned(self.model, self._what) as trace, self.frontend.memory(tower) as videos:
                shows = [each for sample in opened for each in sample.media]
                encoding = Encoding(videos, shows, progress, self.config.reading)
                samples = [encoding.of_prompt(sample) for sample in opened]
                making = time.perf_counter()
                inputs = {name: value.to(device) for name, value in self.frontend.batch(samples).items()}
                read += time.perf_counter() - making
                output = self.model.generate(**inputs, streamer=streamer, **generate_arguments)
                if shown is not None:
                    remember(self, generate_arguments, output, inputs["input_ids"], samples[0].text, shown)
        check_applied(trace, self._what, visual_tokens(self.model, inputs["input_ids"]))
        log_warnings(trace, self._what)
        seconds = {"read": read + encoding.waited, "total": time.perf_counter() - began}
        results = results_of(self, output, samples, inputs, trace, seconds, with_stats, words)
        return results[0] if single else results

    def prepare(
        self,
        video_path: Any = None,
        question: str | Sequence[str] | None = None,
        *,
        images: Any = None,
        messages: Sequence[dict[str, Any]] | None = None,
        start: float | None = None,
        end: float | None = None,
        progress: Progress | None = None,
    ) -> Prepared:
        """Read and encode the videos and images of questions, for any number of calls of `answer`.

        The arguments are those of `generate`. This object's config samples the videos and reads the vision encoder.
        """
        began = time.perf_counter()
        words, given = words_asked(question, messages), (video_path, question, images, messages, start, end)
        opening = opened_samples(self._reading, self.config, self._tower, *given)
        hooked, memory = pruned(self.model, self._what), self.frontend.memory(self._tower)
        with opening as (opened, single), self._lock, torch.inference_mode(), hooked, memory as encoded:
            return Prepared.of(self.frontend, opened, single, encoded, progress, began, self.config.reading, words)

    def open(
        self, video_path: Any, *, start: float | None = None, end: float | None = None, progress: Progress | None = None
    ) -> OpenVideo:
        """Read and encode a video once, for many questions; see `OpenVideo`."""
        return OpenVideo(self, video_path, start, end, progress)

    @ends_streamer
    def answer(self, prepared: Prepared, *, keep_map: bool = False, **generate_arguments: Any) -> Any:
        """Answer prepared questions, with this config or with another that shares the weights (`with_config`).

        Args:
            prepared: the return value of `prepare`. It does not change, and its videos are not sampled again.
            keep_map, generate_arguments: as in `generate`.

        Returns:
            As in `generate`. In the receipt, the seconds of reading and of the encoder are those of `prepare`.
        """
        began = time.perf_counter()
        generate_arguments = with_cache_named(self.model, limited(generate_arguments))
        check_starts_anew(generate_arguments)
        inference = torch.inference_mode(not returns_tensors(self.model, generate_arguments))
        memory = self.frontend.memory(self._tower, prepared.encoded)
        with self._lock, inference, pruned(self.model, self._what, prefixes=prepared.prefixes) as trace, memory:
            inputs = prepared.inputs_for(self._reading, input_device(self.model), self.config.reading)
            output = self.model.generate(**inputs, **generate_arguments)
        check_applied(trace, self._what, visual_tokens(self.model, inputs["input_ids"]))
        seconds = {**prepared.seconds, "total": prepared.seconds["total"] + time.perf_counter() - began}
        own = output, prepared.samples, inputs, trace, seconds
        results = results_of(self, *own, True, prepared.asked if keep_map else None)
        return results[0] if prepared.single else results

    @property
    def _tower(self) -> Any:
        return adapter_for(self.model).parts.vision


PruneVidQwen25VL = PrunedVLM
