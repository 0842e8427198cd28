"""What several questions about one video share: all that stands before the question, up to the first cut.

A decoder is causal. So keys and values of layers 0 to M for the text before the video and for the video itself, and
their states after layer M, do not depend on the question that follows; M is the layer after which the first step inside
the decoder acts. `Prefixes` holds them after one prompt. A later prompt that begins with the same tokens runs its
question alone through layers 0 to M: each of them is given the question's rows, and finds the prefix in its cache. At
the cut the held states stand before the question's again, and all goes on as for a whole prompt: the step sees, scores
and cuts the same tokens.

`generate` is meant, without gradients: the states of the layers up to the cut, which `output_hidden_states` asks for,
are the question's alone. Whoever asks says that the videos are the same: pass ``prefixes`` to `pruned` for prompts
about one video alone. Tokens, plan and weights are compared here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.adapters.masks import layer_mask
from prunevid_qwen.adapters.seams import first_argument, require_arguments
from prunevid_qwen.forward.attention import Rope
from prunevid_qwen.forward.layer_kinds import mixed
from prunevid_qwen.forward.logits import Logits
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.forward.prefill import Prefill
from prunevid_qwen.reducer import Reducer
from prunevid_qwen.tokens import TokenMap


@dataclass(frozen=True, eq=False)
class Prefix:
    """The prefix of one prompt, on the devices of its layers.

    Args:
        ids: [P0] int64 on the CPU: its token ids before any reduction, to the last visual token.
        door: what the step before the first layer decided; None without such a step.
        entries: keys and values [1, Hkv, P, d] of the layers up to ``at``.
        states: [1, P, D] after layer ``at``; None where no step acts inside the decoder.
        at: the last layer that it holds.
    """

    ids: Tensor
    door: TokenMap | None
    entries: tuple[tuple[Tensor, Tensor], ...]
    states: Tensor | None
    at: int

    @property
    def length(self) -> int:
        """P: entries of each layer."""
        return self.entries[0][0].shape[-2]

    @property
    def bytes(self) -> int:
        """Bytes of all keys, values and states."""
        tensors = [each for pair in self.entries for each in pair]
        return sum(each.nbytes for each in (*tensors, *([] if self.states is None else [self.states])))


class _ThisThread(threading.local):
    """The prompt that one thread has under way, or its last one; what it shall leave behind belongs to it alone."""

    outcome: str | None = None
    why: str | None = None
    ids: Tensor | None = None  # [S] of a prompt whose prefix is to be held
    made_of: Any = None
    turn = -1


class Prefixes:
    """Holds the prefix of one video's prompts, for `pruned`; one object for one video and one plan.

    Threads may share it: each has its own prompt under way, and a prefix is held together with what it was made of.
    """

    def __init__(self) -> None:
        self._made: tuple[Any, Prefix] | None = None  # one object, so that no thread sees half of it
        self._now, self._turn = _ThisThread(), 0

    @property
    def held(self) -> Prefix | None:
        """The prefix; None before the first prompt, or where there can be none."""
        made = self._made
        return None if made is None else made[1]

    @property
    def outcome(self) -> str | None:
        """Of this thread's last prompt: "made", "reused", or None."""
        return self._now.outcome

    @property
    def why(self) -> str | None:
        """Of this thread's last prompt: why nothing was reused."""
        return self._now.why

    @property
    def bytes(self) -> int:
        """Bytes that are held."""
        held = self.held
        return 0 if held is None else held.bytes

    def clear(self) -> None:
        """Let go of the prefix; a prompt that is under way in another thread leaves none either."""
        self._made, self._turn = None, self._turn + 1
        self._now.ids = None

    def begin(self, adapter: Adapter, plan: Plan, state: Prefill, ids: Tensor, logits: Logits) -> Reused | None:
        """Look at a prompt that is about to run: return the prefix for it, if one is held and fits.

        Args:
            adapter: of the model.
            plan: under way.
            state: of the prompt, before any step.
            ids: [B, S] on the CPU.
            logits: what is asked of them.
        """
        now, made = self._now, self._made
        now.outcome, now.ids = None, None
        now.why = why_none(adapter, plan) or _why_not_here(state, logits.for_next_token)
        if now.why is not None:
            return None
        now.made_of = (*fingerprint(adapter.parts.model), plan)
        if made is None or made[0] != now.made_of:  # other weights or another plan: what is held is of no use
            now.ids, now.turn = ids[0], self._turn
            return None
        held = made[1]
        first = ids[:, : len(held.ids)]
        if first.shape[1] < len(held.ids) or not bool((first == held.ids).all()):
            now.why = "the prompt begins otherwise than the one before it"
            return None
        start = state.rows[0].start
        if start is None or int(start.visual[-1]) + 1 != len(held.ids):
            now.why = "the prompt shows something else"
            return None
        now.outcome, state.deepstack = "reused", None  # the states that are held have what would be added
        return Reused(held)

    def make(self, state: Prefill, at: int, states: Tensor | None) -> None:
        """Hold the prefix of a prompt whose layers up to ``at`` have run, before anything is cut.

        Args:
            state: of the prompt.
            at: the layer.
            states: [B, S', D] its output; None where no step acts inside the decoder.
        """
        row, now = state.rows[0], self._now
        ids, now.ids = now.ids, None
        if ids is None or now.turn != self._turn or row.layout is None or row.start is None:
            return
        length = int(row.layout.visual[-1]) + 1
        layers = [state.cache.layers[layer] for layer in range(at + 1)]
        entries = tuple((each.keys[:1, :, :length].clone(), each.values[:1, :, :length].clone()) for each in layers)
        door = next((each.map for each in row.reductions if each.at < 0), None)
        own = None if states is None else states[:1, :length].clone()
        self._made = now.made_of, Prefix(ids[: int(row.start.visual[-1]) + 1].clone(), door, entries, own, at)
        now.outcome = "made"


@dataclass(eq=False)
class Reused:
    """A prefix in use by one prompt."""

    prefix: Prefix
    _rope: Rope | None = None
    _mask: Any = None
    _has_mask: bool = False

    @property
    def angles(self) -> Rope:
        """Rotary angles of the whole prompt, as the layers are given them."""
        assert self._rope is not None, "a layer has run"
        return self._rope

    def given(self, adapter: Adapter, state: Prefill, layer: int, args: Any, kwargs: dict[str, Any]) -> Any:
        """Return what a layer is given: the question's rows [B, Q, D], and its arguments for them.

        The layer's cache is filled with the prefix first.
        """
        prefix, length = self.prefix, self.prefix.length
        hidden = first_argument(args, kwargs, "a decoder layer", "hidden_states")
        require_arguments(kwargs, "a decoder layer", "attention_mask", "position_embeddings")
        batch = len(state.rows)
        if layer == 0:
            hidden = hidden[:, length:]
        self._rope = rope = kwargs["position_embeddings"]
        keys, values = (each.expand(batch, -1, -1, -1) for each in prefix.entries[layer])
        state.cache.update(keys, values, layer)
        if not self._has_mask:
            self._mask, self._has_mask = layer_mask(adapter.parts.text_config, hidden, None, length), True
        cos, sin = (each[..., length:, :] for each in rope)
        given = {**kwargs, "position_embeddings": (cos, sin)}
        given["attention_mask"] = adapter.mask_of(layer, self._mask, None, hidden.device)
        for name in ("position_ids", "cache_position"):
            if isinstance(kwargs.get(name), Tensor):
                given[name] = kwargs[name][..., length:]
        return ((hidden, *args[1:]), given) if args else ((), {**given, "hidden_states": hidden})

    def asked(self, hidden: Tensor) -> Tensor:
        """Put nothing where the prefix would stand before the rows [B, Q, D] of a layer's attention: [B, S', D]."""
        empty = hidden.new_zeros(hidden.shape[0], self.prefix.length, hidden.shape[2])
        return torch.cat([empty, hidden], dim=1)

    def whole(self, hidden: Tensor) -> Tensor:
        """Put the held states before the question's [B, Q, D]: [B, S', D]."""
        assert self.prefix.states is not None
        return torch.cat([self.prefix.states.expand(hidden.shape[0], -1, -1), hidden], dim=1)


def with_states(out: Any, hidden: Tensor) -> Any:
    """Return a layer's output, a tuple or its states alone, with other states."""
    return (hidden, *out[1:]) if isinstance(out, tuple) else hidden


def why_none(adapter: Adapter, plan: Plan) -> str | None:
    """Say why prompts under a plan share no prefix; None if they do."""
    door, first = plan.door, plan.cuts[0] if plan.cuts else None
    if door is not None:
        reads = _read_at_the_door(door.by)
        if reads is not None:
            return f"{door.name!r} reads {reads} before the first layer"
    if mixed(adapter):
        return "the states of linear attention hold all tokens in one, and are not kept for another question"
    if any(step.by.needs.probe is not None for step in plan.steps):
        return "a probe runs through the first layers beside the whole prompt"
    query = None if first is None else first.by.needs.attention
    if query is not None and query.source == "pre_rope":
        return 'attention_source="pre_rope" reads the states of the whole prompt'
    last = len(adapter.parts.layers) - 1 if first is None else first.at
    if adapter.deepstack > last + 1:
        return f"the decoder adds features of the vision encoder after layer {last}, where the first cut acts"
    return None


def _read_at_the_door(by: Reducer) -> str | None:
    """Say what of a question a reducer reads before the first layer; None if it decides once for all questions."""
    if by.needs.question or hasattr(by, "prepare"):  # what it prepares may be of the question
        return "the question"
    if by.needs.attention is not None:
        return "the question's attention"
    return "marks, which belong to a question," if by.needs.marks else None


def _why_not_here(state: Prefill, for_next_token: bool) -> str | None:
    if not for_next_token:
        return "more than the logits of the last token is asked for: generate() asks for these alone"
    if torch.is_grad_enabled():
        return "gradients are on, and what is held has none"
    if state.past:
        return "a cache came with the prompt"
    if not bool(state.valid.all()):
        return "several questions of different lengths are in one batch"
    if state.fixed is not None or state.rows[0].start is None:
        return "the prompt is none that may be pruned"
    if any(row.start is None or not row.start.shows_like(state.rows[0].start) for row in state.rows):
        return "the rows of the batch show different things"
    return None


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """Tell weights and active adapters from others: places and versions of all parameters, and peft's switches.

    A change of weights in place, another checkpoint, and an adapter that is switched or merged are seen. A change
    behind torch's back is not: a write through ``.data``, or by another process.
    """
    weights = tuple((each.data_ptr(), each.shape, 0 if each.is_inference() else each._version)
                    for each in model.parameters())  # fmt: skip
    switches = tuple(
        (
            name,
            str(getattr(module, "active_adapters", "")),
            bool(getattr(module, "disable_adapters", False)),
            str(getattr(module, "scaling", "")),
            str(getattr(module, "merged_adapters", "")),
        )
        for name, module in model.named_modules()
        if hasattr(module, "active_adapters") and hasattr(module, "disable_adapters")
    )
    return hash(weights), switches
