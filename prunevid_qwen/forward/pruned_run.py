"""The seams of a forward: one method each. A `Run` lives as long as its `pruned` context; each thread has its state."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.picture_grids import Pictures
from prunevid_qwen.adapters.seams import cache_name, cache_of, check_not_checkpointed, first_argument, require_arguments
from prunevid_qwen.errors import PruningNotApplied, UnsupportedError
from prunevid_qwen.forward.attention import Rope, own_scores
from prunevid_qwen.forward.collector import EvidenceCollector
from prunevid_qwen.forward.decoding import Late, mend
from prunevid_qwen.forward.deepstack import DeepStack
from prunevid_qwen.forward.evidence import Sight, prepare
from prunevid_qwen.forward.logits import Logits
from prunevid_qwen.forward.media_checks import check_countable, check_shown, check_text, may_show
from prunevid_qwen.forward.padding import gather_positions, gather_tokens
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.forward.plan_steps import merge, select
from prunevid_qwen.forward.prefill import Prefill
from prunevid_qwen.forward.prefix import Prefixes, Reused, with_states
from prunevid_qwen.forward.prompt import embeddings, fetch, read_prompt, still_to_come
from prunevid_qwen.forward.vision_times import VisionTimes
from prunevid_qwen.stage3_kv.cache import PrunedCache, adopt, forget_unfilled, size_of, without
from prunevid_qwen.tokens.trace import SampleTrace, Timestamp, Trace

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


class Run(threading.local):
    """The hooks of one context; see `hooks` for the order in which they fire.

    Threads that share a model share the hooks, and each has the forward under way for itself.

    Args:
        adapter: of the model.
        plan: what to do to it.
        evidence: collects the evidence from outside the layers that the plan's steps ask for.
        logits: what calls of the model ask of its logits.
        pictures: notes the grids that a prompt shows.
        trace: of the context.
        prefixes: what its prompts share, if they are about one video.
    """

    def __init__(  # runs in each thread: what watches the model is made once, and given
        self, adapter: Adapter, plan: Plan, evidence: EvidenceCollector, logits: Logits, pictures: Pictures,
        trace: Trace, prefixes: Prefixes | None = None,
    ) -> None:  # fmt: skip
        self.adapter, self.plan, self.collector, self.logits, self.trace = adapter, plan, evidence, logits, trace
        self.pictures, self.prefixes = pictures, prefixes
        self.reused: Reused | None = None  # by the prompt under way
        self.prompt: Tensor | None = None  # [B, S] ids of the last prompt that positions were made for
        self.ids: Tensor | None = None  # [B, S] ids of the forward under way, when pixels came with them
        self.text: Tensor | None = None  # [B, S] ids of the forward under way, when none came under a known name
        self.in_root = False  # else somebody calls the decoder alone
        self.prefill: Prefill | None = None
        self.late = Late()  # in a decode step, what layers from some on are given instead
        self.clock: tuple[str, Timestamp] | None = None
        self.vision = VisionTimes()

    # ---- before the decoder

    def note_prompt(self, input_ids: Tensor | None, mask: Any) -> None:
        """Remember the true prompt: in assisted decoding the first forward also holds candidate tokens."""
        check_countable(mask)
        self.prompt = input_ids

    def before_root(self, _module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Remember the token ids, which the decoder never sees, and whether pixels come with them."""
        ids, media = kwargs.get("input_ids", args[0] if args else None), self.adapter.has_media(kwargs)
        self.in_root, self.ids = True, ids if media else None
        self.text = ids if not media and may_show(self.adapter, kwargs) else None
        self.collector.begin(kwargs.get("mm_encoder_outputs"))
        self.pictures.begin(kwargs.get("mm_encoder_outputs"))
        check_shown(self.adapter, kwargs, ids, media, isinstance(cache_of(kwargs), PrunedCache), self.prompt)

    def after_root(self, _module: nn.Module, _args: Args, _kwargs: Kwargs, out: Any) -> Any:
        """Make sure that the decoder's hooks saw the prompt. Also runs when something raised: then ``out`` is None."""
        missed, self.ids, self.text, self.in_root = self.ids is not None and out is not None, None, None, False
        if missed:
            raise PruningNotApplied(
                "the decoder's hooks never ran on a prompt with images or videos (a compiled or replaced forward?)"
            )
        if out is None:
            self.prompt = None  # a call of it was refused
            return forget_unfilled(self.adapter.parts.model)
        return self.logits.placed(out)

    # ---- the decoder's door

    def before_decoder(self, _module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Stage 1 on a prompt with visual tokens; on everything else only mend the mask."""
        kwargs = dict(kwargs)
        self.prefill, self.reused, self.late = None, None, Late()
        embeds, ids, text = embeddings(kwargs, self.in_root, self.adapter.named), self.ids, self.text
        self.ids = self.text = None
        now = Timestamp.now(embeds.device)
        copy = None if ids is None else fetch(self.adapter, ids, kwargs, self.prompt)
        if copy is None or not bool((self.adapter.types(copy.ids) > 0).any()):
            self._text(kwargs, embeds, text, now)
            return args, kwargs
        cache = self._cache(kwargs)
        past = cache.physical_length()
        framed, answers = self.plan.drop_empty_frames, self.logits.for_an_answer
        prompt = read_prompt(self.adapter, copy, kwargs, past, answers, self.pictures, framed)
        self.prefill = Prefill.of(prompt, cache, past, DeepStack.taken(self.adapter, kwargs))
        if self.plan.places == "packed":
            self.prefill.pack(kwargs["position_ids"])
        if self.prefixes is not None:
            self.reused = self.prefixes.begin(self.adapter, self.plan, self.prefill, copy.ids, self.logits)
        self.prompt = None
        self.clock = ("prefill", now)
        self._new_trace(())
        self.collector.before_stage1(self.prefill, copy.ids)
        prepare(self.prefill, embeds, self.plan, self.trace)
        door = self.plan.door
        if door is not None:
            self._merge(kwargs, self.prefill, door)
            self.trace.add("merge", now, Timestamp.now(embeds.device), door.at)
        if self.prefill.deepstack is not None:
            self.prefill.deepstack.give_back(self.adapter, kwargs, self.plan)
        self.collector.before_layers(self.prefill, kwargs["inputs_embeds"], kwargs["position_ids"])
        return args, kwargs

    def _text(self, kwargs: Kwargs, embeds: Tensor, ids: Tensor | None, now: Timestamp) -> None:
        cache = cache_of(kwargs)
        fresh = cache is None or not cache.get_seq_length()
        self.prompt = still_to_come(self.prompt, cache, embeds)
        if embeds.shape[1] > 1:  # one token is a decode step: a generated placeholder is text
            check_text(self.adapter, ids if fresh else None, kwargs.get("position_ids"))
        if fresh or not self.trace.has_begun:  # a text that goes on from another context's cache is a prompt here
            self._new_trace(tuple(SampleTrace((), 0, embeds.shape[1]) for _ in embeds))
        self.clock = ("prefill" if fresh else "decode", now)
        if isinstance(cache, PrunedCache):
            cache.trace = self.trace
            if cache.changed:
                self.late = mend(self.adapter, kwargs, embeds, cache, [step.at for step in self.plan.cuts])

    def _cache(self, kwargs: Kwargs) -> PrunedCache:
        config, use_cache = self.adapter.parts.text_config, kwargs.get("use_cache")
        used = getattr(config, "use_cache", True) if use_cache is None else use_cache
        if not used and self.logits.for_next_token:
            raise UnsupportedError(
                "with use_cache=False, generate would run the dropped tokens again each step: leave use_cache unset, "
                "or leave the `pruned` block for this call. A forward without logits_to_keep=1 may use it"
            )
        name = cache_name(kwargs)
        lent = not used and kwargs[name] is None
        if kwargs[name] is None:
            kwargs[name] = DynamicCache(config=config)
        cache = adopt(kwargs[name])
        cache.trace, cache.lent = self.trace, lent
        return cache

    def _new_trace(self, samples: tuple[SampleTrace, ...]) -> None:
        self.trace.begin(samples)
        for start, stop in self.vision.take():
            self.trace.add("vision", start, stop)

    def _merge(self, kwargs: Kwargs, state: Prefill, step: Step) -> None:
        embeds, positions = kwargs["inputs_embeds"], kwargs["position_ids"]
        sight = self._sight(
            step, embeds, lambda: self.adapter.rope(embeds, positions[-3:] if self.adapter.spatial else positions)
        )
        later, known = self.plan.needs_after(step.at), self.reused.prefix.door if self.reused else None
        changed = merge(state, step, sight, later, known)
        if changed is None:
            return
        index, valid, embeds = changed
        state.entered(valid)
        kwargs["inputs_embeds"] = embeds
        packed = state.origin is not None
        kwargs["position_ids"] = state.packed(valid) if packed else gather_positions(positions, index, valid)
        kwargs["attention_mask"] = self.adapter.door_mask(state.mask(self.adapter, embeds, valid))

    def _sight(self, step: Step, hidden: Tensor, rope: Callable[[], Rope]) -> Sight:
        assert self.prefill is not None
        number, places = self.plan.number_of(step), self.plan.places_of(step.by)
        depth = len(self.adapter.parts.layers)
        return Sight(self.prefill, self.adapter, step, number, hidden, rope, places, depth)

    # ---- the layers

    @torch.no_grad()
    def after_attention(self, step: Step, args: Args, kwargs: Kwargs) -> None:
        """Score the visual tokens by the attention of the question's rows, when the step wants this layer's own."""
        state = self.prefill
        query = None if state is None else step.by.needs.attention
        if state is None or query is None or query.projections != "own":
            return
        check_not_checkpointed(self.adapter.parts.layers, state.filled(step.at))
        hidden = first_argument(args, kwargs, "a layer's attention", "hidden_states")
        require_arguments(kwargs, "a layer's attention", "position_embeddings")
        start, rope = Timestamp.now(hidden.device), kwargs["position_embeddings"]
        if self.reused is not None and step is self.plan.cuts[0]:
            hidden, rope = self.reused.asked(hidden), self.reused.angles
        own_scores(state, self.adapter, step, query, hidden, rope)
        self.trace.add("select", start, Timestamp.now(hidden.device), step.at)

    @torch.no_grad()
    def beside_layer(self, layer: int, kwargs: Kwargs, out: Any) -> None:
        """Take the probe through a layer that has just run on the prompt."""
        if self.prefill is None:
            return
        check_not_checkpointed(self.adapter.parts.layers, self.prefill.filled(layer))
        device = (out[0] if isinstance(out, tuple) else out).device
        start = Timestamp.now(device)
        if self.collector.after_layer(layer, kwargs, device):
            asking = next(step.at for step in self.plan.cuts if step.by.needs.probe is not None)
            self.trace.add("select", start, Timestamp.now(device), asking)

    def after_layer(self, step: Step, kwargs: Kwargs, out: Any) -> Any:
        """Stage 2 on a layer's output, stage 3 on the cache of the layers up to it."""
        state = self.prefill
        if state is None:
            return None
        hidden = out[0] if isinstance(out, tuple) else out
        start = Timestamp.now(hidden.device)
        require_arguments(kwargs, "a decoder layer", "position_embeddings")
        if step.by.needs.keys:
            check_not_checkpointed(self.adapter.parts.layers, state.filled(step.at))
        cos, sin = kwargs["position_embeddings"]
        reused = self.reused if (first := step is self.plan.cuts[0]) else None
        if reused is not None:
            hidden, (cos, sin) = reused.whole(hidden), reused.angles
        elif first and self.prefixes is not None:
            self.prefixes.make(state, step.at, hidden)
        sight = self._sight(step, hidden, lambda: (cos, sin))
        changed = select(state, step, sight, self.plan.needs_after(step.at))
        if changed is None:
            return None if reused is None else with_states(out, hidden)
        check_not_checkpointed(self.adapter.parts.layers, state.filled(step.at))
        came, (index, valid, left) = state.valid.shape[1], changed
        rope = gather_tokens(cos, index), gather_tokens(sin, index)
        if state.origin is not None:
            rope = self.adapter.rope(left, state.packed(valid).to(left.device))
        state.cut(step.at, valid, rope)
        chosen = Timestamp.now(hidden.device)
        self.trace.add("select", start, chosen, step.at)
        if self.plan.compress:
            state.cache.written(step.at, state.past + came)
            state.cache.keep(range(step.at + 1), index, state.past)
            self.trace.add("compact", chosen, Timestamp.now(hidden.device), step.at)
        return with_states(out, left)

    def before_shared_layer(self, layer: int, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        """Give a layer the question's rows alone, where what stands before them is held."""
        if self.prefill is None or self.reused is None:
            return None
        return self.reused.given(self.adapter, self.prefill, layer, args, kwargs)

    def before_later_layer(self, layer: int, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        """Give a layer behind a step the mask and the rotary angles of what is left."""
        state, hidden = self.prefill, first_argument(args, kwargs, "a decoder layer", "hidden_states")
        changed = (self.late if state is None else state).given_to(self.adapter, layer, hidden)
        if not changed:
            return None
        require_arguments(kwargs, "a decoder layer", "attention_mask", "position_embeddings")
        if kwargs.get("position_ids") is None:  # the text row: gaps in it would read as packed sequences
            changed.pop("position_ids", None)
        return args, {**kwargs, **changed}

    # ---- later calls and the way out

    def after_decoder(self, _module: nn.Module, _args: Args, kwargs: Kwargs, out: Any) -> Any:
        """Close the prompt: hand the cache what decoding needs, write the trace. Also runs when something raised."""
        state, clock = self.prefill, self.clock
        self.prefill, self.late, self.clock = None, Late(), None
        cache = cache_of(kwargs)
        if isinstance(cache, PrunedCache):
            cache.trace = None
        if out is None:
            self.vision.take()
            self.collector.forget()
            return None
        if state is not None:
            missed = " and ".join(str(step.at) for step in self.plan.cuts if step.at not in state.acted)
            if missed:
                raise PruningNotApplied(f"stage 2 did not act after layer {missed} (a compiled or replaced forward?)")
            if self.prefixes is not None and not self.plan.cuts:
                self.prefixes.make(state, len(self.adapter.parts.layers) - 1, None)
            state.close(self.adapter.parts.layers, self.plan.compress)
            self.trace.samples = tuple(row.trace() for row in state.rows)
            if state.shortened:
                self.logits.shortened(state)
            if state.cache.lent:
                cache, out = None, without(out, state.cache)
        if clock is not None and clock[0] == "prefill":
            self.trace.cache_lengths, self.trace.cache_bytes = size_of(cache if cache is not None else cache_of(out))
        if clock is not None:
            self.trace.add(clock[0], clock[1], Timestamp.now(out[0].device, clock[1]))
        return out
