"""What a reducer may ask for, and what it is then shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.tokens import TokenLayout

_ATTENTION = {
    "source": ("post_rope", "pre_rope"),
    "heads": ("max", "mean"),
    "rows": ("max", "mean", "last", "each"),
    "tokens": ("all", "question", "last"),
    "projections": ("own", "next"),
}
_QUESTION = ("", "all", "question", "last")
_VISION = ("states", "received", "cls", "keys")


@dataclass(frozen=True)
class AttentionQuery:
    """Which question -> visual attention a reducer wants to see.

    Args:
        source: "post_rope" (the model's own, causal) or "pre_rope" (before rotary embedding, no causal mask).
        heads: "max" or "mean" over heads, first.
        rows: "max" or "mean" over the question's tokens, then; "last" is the last one alone; "each" keeps them apart.
        tokens: which text tokens are the question: "all" after the last visual one, "question" (the user's words) or
            "last", as in `TokenLayout.asking`.
        projections: "own": the queries and keys of the layer on whose output the step acts; "next": those that the
            layer after it makes of that output. At the decoder's door there is only "next": layer 0 on the embeddings.
        top_heads: only so many heads, those with the largest sum of probability over rows and visual tokens (of equal
            ones the first); None for all.

    Raises:
        ConfigError: a word that is none of these, or ``top_heads`` below 1.
    """

    source: str = "post_rope"
    heads: str = "max"
    rows: str = "max"
    tokens: str = "all"
    projections: str = "own"
    top_heads: int | None = None

    def __post_init__(self) -> None:
        for name, known in _ATTENTION.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"attention's {name} is one of {', '.join(known)}, got {quoted(getattr(self, name))}")
        if self.top_heads is not None and self.top_heads < 1:
            raise ConfigError(f"top_heads is a number of heads from 1 on, or None for all; got {self.top_heads}")


@dataclass(frozen=True, eq=False)
class Probe:
    """Extra tokens that follow the prompt through the first layers to see what they attend to, and leave no trace.

    They stand at the places after the prompt's last token, attend to the whole prompt and, causally, to each other; no
    other token sees them, and no cache, position or output holds them.

    Args:
        vectors: [L, P, D] for P tokens: their input embeddings, then what is added to their states before layers 1, 2
            and so on (a deep prompt); L the layers of the model that it was made for.
        layers: whose attention is read, ascending, below L.
        heads: attention heads that each of these layers has to have.
    """

    vectors: Tensor
    layers: tuple[int, ...]
    heads: int


@dataclass(frozen=True)
class VisionQuery:
    """What a reducer wants to see of blocks of the vision tower.

    Args:
        blocks: indices from 0, in the order in which the reducer wants them; from the end where negative.
        width: channels that the tower's blocks have to have, for a method that was trained on them; None for any.
        what: one or several of "states" (the block's output), "received" (the attention that a patch gets: the mean
            over the patches that it is computed with, and over heads), "cls" (the attention that the tower's CLS token
            pays it, the mean over heads; of towers with such a token) and "keys" (after rotary embedding where the
            tower has one, the mean over heads).

    Raises:
        ConfigError: no block, or a word that is none of these.
    """

    blocks: tuple[int, ...]
    width: int | None = None
    what: str | tuple[str, ...] = "states"

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        object.__setattr__(self, "what", (self.what,) if isinstance(self.what, str) else tuple(self.what))
        if not self.blocks:
            raise ConfigError("a query of the vision tower names its blocks, got none")
        if not self.kinds or any(each not in _VISION for each in self.kinds):
            raise ConfigError(f"of a block of the vision tower a query asks {', '.join(_VISION)}; got {self.what!r}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """``what``, as the tuple that it is kept as."""
        return tuple(self.what)


VisionTaps = VisionQuery  # its name in 0.1


_KINDS: dict[str, type] = {
    "attention": AttentionQuery,
    "probe": Probe,
    "vision": VisionQuery,
    "taps": VisionQuery,
    "marks": bool,
    "keys": bool,
}


def _named(kind: type) -> str:
    return "True or False" if kind is bool else f"a {kind.__name__}, such as {kind.__name__}(...), or None"


@dataclass(frozen=True)
class Needs:
    """Evidence that costs something, gathered only for a reducer that asks. A field for each kind, as users come.

    Each is to be had at the decoder's door and between any two layers, but for a probe.

    Args:
        attention: which attention, if any.
        question: the states of which text tokens: "all" after the last visual one, "question" (the user's words),
            "last", or "" for none; True is "all". A reducer at the door that does not ask for them decides once for all
            questions about the same video in a batch.
        probe: tokens to send along, if any; not at the decoder's door, and by one step of a plan alone.
        vision: what blocks of the vision tower, if any; one such query in a plan.
        marks: what the caller of `pruned` says of each token.
        layers: before which layers alone the reducer can act, because it was trained there; None for any.
        keys: the keys of the visual tokens.
        taps: the name of ``vision`` in 0.1.
        layer: in 0.1, the layer after which alone the reducer can act: ``layers=(layer + 1,)``.

    Raises:
        ConfigError: a field is of another kind, ``question`` is none of these words, or an old name stands beside its
            new one.
    """

    attention: AttentionQuery | None = None
    question: str | bool = ""
    probe: Probe | None = None
    vision: VisionQuery | None = None
    marks: bool = False
    layers: tuple[int, ...] | None = None
    keys: bool = False
    taps: VisionQuery | None = None
    layer: int | None = None

    def __post_init__(self) -> None:
        words = self.question if isinstance(self.question, str) else "all" if self.question else ""
        if words not in _QUESTION:
            raise ConfigError(f"needs.question is one of {_QUESTION}, or True for 'all'; got {self.question!r}")
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise ConfigError(f"needs.{name} is {_named(kind)}, got {quoted(value)}")
        for old, new in (("taps", "vision"), ("layer", "layers")):
            if getattr(self, old) is not None and getattr(self, new) is not None:
                raise ConfigError(f"needs.{old} is the old name of needs.{new}: leave it out")
        object.__setattr__(self, "question", words)
        if self.taps is not None:
            object.__setattr__(self, "vision", self.taps)
            object.__setattr__(self, "taps", None)
        if self.layer is not None:
            object.__setattr__(self, "layers", (self.layer + 1,))
            object.__setattr__(self, "layer", None)


@dataclass(frozen=True)
class Evidence:
    """All that a reducer may look at: one sample, never a model.

    Args:
        layout: what each position of the sample is. ``layout.blocks`` are the videos and images: rows
            ``block.start`` to ``block.stop`` of all that is [N, ...] here.
        hidden: [N, D] states of the visual tokens at this depth, model dtype.
        question: [Q', D] states of the text tokens that `Needs.question` asked for; [0, D] when it did not.
        attention: [N] fp32, natural logarithm of the attention probability, reduced over heads and question tokens as
            `Needs.attention` asked, or [Q', N] for each question token by itself; None when it did not ask. Reduced as
            it is computed: the whole [H, Q, N] array is what long videos cannot afford.
        probe: [L, H, P, N] fp32 attention logits (queries by keys by the layer's scale, no mask, no softmax) of the
            tokens of `Needs.probe` in its layers; None when it did not ask.
        taps: ``vision["states"]``, its name in 0.1.
        marks: [N] fp32 in [0, 1] what the caller says of each token (of a merged one, the most said of a member); None
            when it did not ask.
        vision: for each word of `Needs.vision`, in the order of its blocks: "states" [L, N, C] in the tower's dtype,
            "received" and "cls" [L, N] fp32, "keys" [L, N, d] fp32: the mean over the patches of a token (and then over
            its members, where a step before merged); None when it did not ask.
        keys: [Hkv, N, d] the visual tokens' keys, model dtype: as the layer on whose output the step acts has cached
            them; at the decoder's door as layer 0 makes them of the embeddings. None when it did not ask.
        step: which of this reducer's steps in the plan it is, from 0.
        layer: on whose output the step acts, from 0; -1 at the decoder's door.
        start: visual tokens that the sample had before any step of the plan.
        note: what the reducer's own `prepare` returned for this sample; None where it has no such method.
        entered: visual tokens of each of the layout's blocks as this reducer's first step was given them; () where that
            is not known, and the layout's are these.
        steps_at: on whose outputs this reducer's steps act, ascending, this one among them; () where that is not known.
        depth: layers of the decoder; 0 where that is not known.
    """

    layout: TokenLayout
    hidden: Tensor
    question: Tensor
    attention: Tensor | None = None
    probe: Tensor | None = None
    taps: Tensor | None = None
    marks: Tensor | None = None
    vision: Mapping[str, Tensor] | None = None
    keys: Tensor | None = None
    step: int = 0
    layer: int = -1
    start: int = 0
    note: Any = None
    entered: tuple[int, ...] = ()
    steps_at: tuple[int, ...] = ()
    depth: int = 0

    def __post_init__(self) -> None:
        if self.vision is not None:
            object.__setattr__(self, "taps", self.vision.get("states"))
        elif self.taps is not None:
            object.__setattr__(self, "vision", {"states": self.taps})
