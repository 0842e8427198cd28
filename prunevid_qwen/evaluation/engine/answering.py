"""Answering the questions of a task: media encoded once, each question by itself under each config, never padded."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for, visual_tokens
from prunevid_qwen.adapters.vision import EncodedVideos, Features
from prunevid_qwen.answers.results import with_grids
from prunevid_qwen.bundled import BUNDLED
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.evaluation.engine.process_pool import Plugins
from prunevid_qwen.evaluation.engine.task import Line, Task, TaskQuestion
from prunevid_qwen.evaluation.engine.task_media import Read, ReadMedia, media_wanted
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.forward.reuse import encoding_ahead
from prunevid_qwen.inputs.frontends import Frontend, not_shown, suited
from prunevid_qwen.inputs.qwen.feed import planner_of
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.inputs.qwen.pixels import fitted_pixels
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.receipt import check_applied, receipt
from prunevid_qwen.tokens.device import input_device
from prunevid_qwen.video.clip import Clip
from prunevid_qwen.video.picture import Picture
from prunevid_qwen.vision.carried import Carried
from prunevid_qwen.vision.equal_frames import SeenFrames, Spreading, encoded_of, of_positions
from prunevid_qwen.vision.identical import planned_ahead
from prunevid_qwen.vision.options import vision_options

NamedConfigs = tuple[tuple[str, PruneVidConfig], ...]

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "temperature": None,
    "top_p": None,
    "top_k": None,
}
"""The most probable token, whatever a checkpoint's generation_config prefers: no penalty, no temperature."""

_SECONDS = ("read", "merge", "select", "compact", "prefill", "decode", "total")


@dataclass(frozen=True)
class Answering:
    """Who answers, as something that travels: a process makes an `Answerer` of it."""

    configs: NamedConfigs  # name and config of each
    model_path: str = BUNDLED  # or a folder, or a hub id
    loading: dict[str, Any] = field(default_factory=dict)  # arguments of `from_pretrained`; None means its default
    generation: dict[str, Any] = field(default_factory=dict)  # arguments of ``generate``, over `GREEDY`
    plugins: Plugins = ()  # that register methods of the configs; every process of the run loads them first

    def __post_init__(self) -> None:
        chunks = {config.vision_chunk_tokens for _, config in self.configs}
        if len(chunks) != 1:
            raise ConfigError(
                "configs that share a video's features encode it in the same chunks: vision_chunk_tokens is "
                f"{', '.join(map(str, sorted(chunks, key=str)))}; give all the same, or run them one by one"
            )

    def load(self) -> Answerer:
        """Load the model; a family that is not known is refused first, then a config that does not fit it."""
        media_wanted(self.model_path, self.loading)
        model = PruneVidQwen25VL.from_pretrained(self.model_path, config=self.configs[0][1], **self.loading)
        for _, config in self.configs[1:]:
            model.with_config(config)
        return Answerer(model, self.configs, self.generation)


class Answerer:
    """A loaded model, its own config unread, that answers tasks under several configs."""

    def __init__(self, model: PruneVidQwen25VL, configs: NamedConfigs, generation: dict[str, Any]) -> None:
        self.model, self.configs, self.generation = model, dict(configs), {**GREEDY, **generation}
        self.adapter = adapter_for(model.model)
        self.encodes = isinstance(model.frontend, Preprocessor)  # else the stock model does, in each answer
        self._frontends: dict[int, Frontend] = {}  # by the id of the config

    def frontend(self, config: PruneVidConfig) -> Frontend:
        """Return what makes the inputs under one of the configs."""
        if self.encodes:
            return self.model.frontend
        if id(config) not in self._frontends:
            self._frontends[id(config)] = suited(self.model.frontend, self.model.model, config)
        return self._frontends[id(config)]

    def answer(self, task: Task, read: Read) -> Iterator[Line]:
        """Answer every question of a task under every config that it names, or raise `PruningNotApplied`."""
        encoded = Encoded(self, read.media)
        for question, names in task.questions:
            for name in names:
                yield self.line(question, name, read, encoded)

    def line(self, question: TaskQuestion, name: str, read: Read, encoded: Encoded) -> Line:
        """Answer one question under the config called ``name``; ``encoded`` is made of what was read, and shared."""
        line = {**question.about(), "config": name, "error": question.error or read.error, "raw": None}
        if line["error"] is None:
            try:
                line |= self._ask(question, self.configs[name], encoded, read)
            except torch.OutOfMemoryError:  # one video may be too large where all others fit
                line["error"] = "out of GPU memory: fewer frames or smaller max_pixels need less"
        return line

    @torch.inference_mode()
    def _ask(self, question: TaskQuestion, config: PruneVidConfig, encoded: Encoded, read: Read) -> Line:
        began = time.perf_counter()
        held, media = encoded.under(config)
        items = [{"type": medium.kind, medium.kind: medium} for medium in media]
        stock, frontend = self.model.model, self.frontend(config)
        sample = frontend.sample(question.messages(items, read.media), config)
        try:
            made = frontend.batch([sample])
        except UnsupportedError as error:  # such as videos of unlike lengths in one prompt
            return {"error": str(error)}
        inputs = {name: value.to(input_device(stock)) for name, value in made.items()}
        with frontend.memory(self.adapter.parts.vision, held), pruned(stock, config) as trace:
            output = stock.generate(**inputs, **{**self.generation, **question.generation})
        check_applied(trace, config, visual_tokens(stock, inputs["input_ids"]))
        width = inputs["input_ids"].shape[1]
        new = output[0, width:]
        tokenizer = frontend.tokenizer
        generated = int((new != tokenizer.pad_token_id).sum())
        seconds = {"read": read.seconds, "total": time.perf_counter() - began}
        facts, kinds = [medium.facts for medium in read.media], [medium.kind for medium in read.media]
        if not self.encodes:  # then only the model knows how many tokens a frame is
            facts = with_grids(media, trace.samples[0])
        whole = receipt(trace, 0, config, facts, kinds, width, {}, seconds, generated)
        tokens = whole["tokens"]
        return {
            "raw": tokenizer.decode(new, skip_special_tokens=True),
            "prompt": sample.text,
            "tokens": {**tokens, "prompt": width, "generated": generated},
            "kept_ratio": tokens["after_stage2"] / tokens["visual"] if tokens["visual"] else None,
            "seconds": {part: whole["seconds"][part] for part in (*_SECONDS, *(() if self.encodes else ("vision",)))},
            "media": facts,
        }


class Encoded:
    """The media of a task as the vision tower sees them, bit for bit as in `PrunedVLM.generate`.

    They are encoded once for all configs that encode alike and whose selectors look at the same blocks. Of families
    whose inputs the library's processor makes, nothing is encoded ahead.
    """

    def __init__(self, answerer: Answerer, media: Sequence[ReadMedia]) -> None:
        self._answerer, self._media = answerer, media
        self._held: dict[Any, tuple[EncodedVideos, list[Medium]]] = {}

    def under(self, config: PruneVidConfig) -> tuple[EncodedVideos | None, Sequence[Medium | Clip | Picture]]:
        """Return the features, None where nothing is encoded ahead, and what stands for each medium in a prompt.

        Raises:
            UnsupportedError: the model is not shown such a medium.
        """
        if not self._answerer.encodes:
            frontend = self._answerer.frontend(config)
            for medium in self._media:
                if medium.kind not in frontend.reads:
                    raise not_shown(medium.kind, self._answerer.adapter.family, frontend.reads)
            return None, [medium.held_by(frontend, config) for medium in self._media]
        adapter = self._answerer.adapter
        plan = compile_plan(config, len(adapter.parts.layers))
        key = plan.needs.vision, plan.vision
        if key not in self._held:
            held = EncodedVideos(adapter.parts.vision)
            with encoding_ahead(adapter, plan):
                made = [self._encode(held, medium, config) for medium in self._media]
            self._held[key] = held, made
        return self._held[key]

    def _encode(self, held: EncodedVideos, read: ReadMedia, config: PruneVidConfig) -> Medium:
        reader = self._answerer.model.preprocessor.media
        options = reader.image if read.kind == "image" else reader.video
        depth = options.temporal_patch_size
        size = (read.frames.shape[1] // options.factor) * (read.frames.shape[2] // options.factor)
        whole = -(-len(read.frames) // depth)
        tokens = config.vision_chunk_tokens
        at_once = whole if tokens is None else max(1, tokens // size)
        seen, spreading, parts = SeenFrames(depth), Spreading(), []
        vision, carried = vision_options(config.reading), Carried()
        planner = planner_of(vision, options) if vision.reuses and read.kind == "video" else None
        for at in range(0, whole, at_once):
            frames = read.frames[at * depth : (at + at_once) * depth]
            sources = seen.sources(frames) if config.reading.reuse_identical else range(-(-len(frames) // depth))
            kept, made = encoded_of(sources), None
            if kept:
                pixels, grid = fitted_pixels(of_positions(frames, kept, depth), options)
                if planner is not None:
                    carried.give(planner.plan(pixels, len(kept)), at + at_once < whole)
                with planned_ahead():
                    made = held.encode(pixels.to(held.tower.dtype), grid, None if planner is None else carried)
            parts.append(spreading.features(made, sources, numbered=planner is not None))
        grid = torch.tensor([[whole, *grid[0, 1:].tolist()]])
        features = Features(*(_cat(part) for part in zip(*parts, strict=True)))  # type: ignore[arg-type]
        return Medium(read.kind, held.hold(features), grid, read.seconds_per_grid, read.facts)


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    held = [part for part in parts if part is not None]
    return torch.cat(held) if len(held) == len(parts) else None
