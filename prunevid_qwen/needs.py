"""Needs: the evidence that a reducer asks for. Evidence: all that it may read."""

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
    "tokens": ("all", "question", "last", "noted"),
    "projections": ("own", "next"),
}
_QUESTION = ("", "all", "question", "last")
_VISION = ("states", "received", "cls", "keys", "salience", "pooled")
FEATURES = "features"
"""The block of a vision tower whose output the model makes its features of."""


@dataclass(frozen=True)
class AttentionQuery:
    """A query for the attention from the question's tokens to the visual tokens.

    Args:
        source: "post_rope" is the model's own causal attention. "pre_rope" is before rotary embedding, without the
            causal mask.
        heads: reduction over heads, which comes first: "max" or "mean".
        rows: reduction over the question's tokens: "max" or "mean". "last" takes the last token alone. "each" does not
            reduce.
        tokens: text tokens of the question. "all" is everything after the last visual token, "question" the user's
            words, "last" the last token; see `TokenLayout.asking`. "noted" are the tokens of "all" that the reducer's
            `prepare` returned as True, [Q] bool; the rows of the others count for nothing.
        projections: "own" uses the queries and keys of the layer on whose output the step acts. "next" uses those of
            the layer after it, made of that output. The decoder's door has only "next": layer 0 on the embeddings.
        top_heads: number of heads used: those with the largest sum of probability over rows and visual tokens. Of equal
            heads the first is used. A float in (0, 1) is a share of the heads, rounded down, at least one head. None
            means all heads.
        gravity: divide each probability by the attention that positions alone give: the scaled product of an all-ones
            query and an all-ones key, both after rotary embedding, and at least `question_attention.LEAST_GRAVITY`.

    Raises:
        ConfigError: a value is none of these words, ``top_heads`` is out of range, or two values contradict each other.
    """

    source: str = "post_rope"
    heads: str = "max"
    rows: str = "max"
    tokens: str = "all"
    projections: str = "own"
    top_heads: int | float | None = None
    gravity: bool = False

    def __post_init__(self) -> None:
        for name, known in _ATTENTION.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"attention's {name} is one of {', '.join(known)}, got {quoted(getattr(self, name))}")
        best = self.top_heads
        if best is not None and not (0 < best < 1 if isinstance(best, float) else best >= 1):
            raise ConfigError(
                f"top_heads is a number of heads, at least 1, a share in (0, 1) as a float, or None for all; got {best}"
            )
        if self.gravity and self.source == "pre_rope":
            raise ConfigError('gravity is of rotary embedding: read source="post_rope", or leave gravity out')
        if self.tokens == "noted" and self.rows == "last":
            raise ConfigError('tokens="noted" chooses rows, and rows="last" reads the last one alone: give one of them')


@dataclass(frozen=True, eq=False)
class Probe:
    """Extra tokens whose attention to the prompt is read in the first layers.

    Their positions follow the prompt's last token. They attend to the whole prompt and, causally, to each other. No
    other token sees them, and no cache, position or output holds them.

    Args:
        vectors: [L, P, D] for P tokens in a model of L layers. Entry 0 is their input embeddings; entry l is added to
            their states before layer l (a deep prompt).
        layers: layers whose attention is read, ascending, below L.
        heads: number of attention heads that the model must have.
        softmax: the evidence is natural logarithms of attention probabilities instead of logits. The softmax is over
            everything that the token sees: the text, the visual tokens, and the extra tokens up to itself.
    """

    vectors: Tensor
    layers: tuple[int, ...]
    heads: int
    softmax: bool = False


@dataclass(frozen=True)
class VisionQuery:
    """A query for values from blocks of the vision tower.

    Args:
        blocks: the blocks, in the order of the result: indices from 0 (negative ones count from the end), shares of the
            tower's depth in (0, 1) (block ``int(share * depth)``), or "features" for the block whose output the model
            makes its features of.
        width: number of channels that the blocks must have, for a method that was trained on them. None means any.
        what: one or several of these words. "states": the block's output. "received": the attention that a patch gets,
            averaged over the patches of the same window (or image) and over heads. "cls": the attention from the
            tower's CLS token to a patch, averaged over heads; only for towers with such a token. "salience": "cls" in a
            tower with such a token, "received" in any other. "keys": the keys, after rotary embedding if the tower has
            one, averaged over heads. "pooled": the attention that a token gets from the mean query of its window (or
            image), averaged over heads; in Qwen's towers a token has the mean key of its patches.

    Raises:
        ConfigError: there is no block, a block is none of the above, or a word is none of these.
    """

    blocks: tuple[int | float | str, ...]
    width: int | None = None
    what: str | tuple[str, ...] = "states"

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        object.__setattr__(self, "what", (self.what,) if isinstance(self.what, str) else tuple(self.what))
        if not self.blocks:
            raise ConfigError("a VisionQuery needs at least one block, got none: pass blocks=(-1,) for the last one")
        for block in self.blocks:
            share = isinstance(block, float) and 0 < block < 1
            if not share and block != FEATURES and (not isinstance(block, int) or isinstance(block, bool)):
                raise ConfigError(
                    f"a block of a VisionQuery is an index, a share of the depth in (0, 1) or {FEATURES!r}; got "
                    f"{quoted(block)}"
                )
        if not self.kinds or any(each not in _VISION for each in self.kinds):
            raise ConfigError(f"what of a VisionQuery is one or several of {', '.join(_VISION)}; got {self.what!r}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """``what`` as a tuple."""
        return tuple(self.what)

    @property
    def indices(self) -> tuple[int, ...]:
        """``blocks`` of a query for a known tower, in which shares and words have become indices."""
        return tuple(int(block) for block in self.blocks)


VisionTaps = VisionQuery  # its name in 0.1


_KINDS: dict[str, type] = {
    "attention": AttentionQuery,
    "probe": Probe,
    "vision": VisionQuery,
    "taps": VisionQuery,
    "marks": bool,
    "keys": bool,
    "angles": bool,
    "square_images": bool,
}


def _named(kind: type) -> str:
    return "True or False" if kind is bool else f"a {kind.__name__}, such as {kind.__name__}(...), or None"


@dataclass(frozen=True)
class Needs:
    """The evidence that a reducer asks for, besides the layout and the states. It is computed only on request.

    All of it is available at the decoder's door and between any two layers, except for a probe.

    Args:
        attention: query for attention, or None.
        question: text tokens whose states are needed. "all" (or True) is everything after the last visual token,
            "question" the user's words, "last" the last token, "" none. A reducer at the decoder's door without it
            decides once for all questions about the same video in a batch.
        probe: extra tokens whose attention is read, or None. Not at the decoder's door, and for one step of a plan.
        vision: query for blocks of the vision tower, or None. All steps of a plan share one query.
        marks: the marks that the caller passed to `pruned`.
        layers: the only layers before which the reducer can act, because it was trained for them. None means any.
        keys: the keys of the visual tokens, and with ``question`` those of its tokens too.
        angles: the rotary angles of the visual tokens.
        square_images: images must be padded to squares before they are resized, because the reducer was trained on
            such. `PrunedVLM` does this when it reads images; the evidence is the same.
        taps: name of ``vision`` in 0.1.
        layer: in 0.1 the only layer after which the reducer can act: ``layers=(layer + 1,)``.

    Raises:
        ConfigError: a field has the wrong type, ``question`` is none of these words, or both an old name and its new
            name are set.
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
    square_images: bool = False
    angles: bool = False

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
    """All that a reducer may read: one sample, never the model. Evidence that `Needs` did not ask for is None.

    Args:
        layout: the kind of each position of the sample. ``layout.blocks`` are the videos and images. Each one owns the
            rows ``block.start`` to ``block.stop`` of every [N, ...] tensor here.
        hidden: [N, D] states of the visual tokens at this depth, model dtype.
        question: [Q', D] states of the text tokens of `Needs.question`; [0, D] without it.
        attention: [N] fp32 natural logarithms of the attention probabilities, reduced over heads and question tokens as
            in `Needs.attention`; or [Q', N] with ``rows="each"``. The full [H, Q, N] array never exists.
        probe: [L, H, P, N] fp32 attention logits of the tokens of `Needs.probe` in its layers (scaled products of
            queries and keys, no mask, no softmax); with ``softmax=True`` logarithms of probabilities.
        taps: name of ``vision["states"]`` in 0.1.
        marks: [N] fp32 in [0, 1], the caller's mark of each token. A merged token has the largest of its members.
        vision: a tensor for each word of `Needs.vision`, in the order of its blocks: "states" [L, N, C] in the tower's
            dtype, "received", "cls", "salience" and "pooled" [L, N] fp32, "keys" [L, N, d] fp32. Each is a mean over
            the patches of a token, then over the members of a merged token.
        keys: [Hkv, N, d] keys of the visual tokens, model dtype, from the cache of the layer on whose output the step
            acts. At the decoder's door they are those of layer 0 on the embeddings.
        question_keys: [Hkv, Q', d] keys of the tokens of ``question``, of the same layer.
        angles: [2, N, R] cosines and sines of the rotary angles that the decoder gives the visual tokens for their
            positions, model dtype: one row a token, whatever its positions are counted by. R is the number of channels
            of a head that are turned; channel i goes with channel i + R / 2. A merged token has those of its group's
            ``rep``.
        step: number of this step among the reducer's steps, from 0.
        layer: the layer on whose output the step acts, from 0; -1 at the decoder's door.
        start: number of the sample's visual tokens before any step of the plan.
        note: the return value of the reducer's own `prepare` for this sample; None without such a method.
        entered: number of visual tokens of each block before this reducer's first step; () if unknown, and then equal
            to the layout's.
        steps_at: the layers on whose outputs this reducer's steps act, ascending, with this one; () if unknown.
        depth: number of decoder layers; 0 if unknown.
        source: [N] int64 at the decoder's door: the row of ``hidden`` of which each token is a copy, itself if it was
            encoded. None elsewhere, and if the vision encoder made no copies.
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
    question_keys: Tensor | None = None
    step: int = 0
    layer: int = -1
    start: int = 0
    note: Any = None
    entered: tuple[int, ...] = ()
    steps_at: tuple[int, ...] = ()
    depth: int = 0
    angles: Tensor | None = None
    source: Tensor | None = None

    def __post_init__(self) -> None:
        if self.vision is not None:
            object.__setattr__(self, "taps", self.vision.get("states"))
        elif self.taps is not None:
            object.__setattr__(self, "vision", {"states": self.taps})
