"""The flat names of options: one list for the constructor, the command line and files without a format.

They are all options of version 3a0e2fd, with that version's defaults, which files without a format are read by. Options
that came later, and those of other people's methods, have no line here. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_type_hints

from prunevid_qwen.config.media_reading import CHOICES as OF_READING
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.config.method_base import CHOICES as OF_METHODS
from prunevid_qwen.config.method_base import check_layer, check_option
from prunevid_qwen.config.option_checks import checked_names, unknown
from prunevid_qwen.errors import ConfigError, quoted

SCHEMES = ("reference", "hf")
CHOICES: dict[str, tuple[str, ...]] = {
    **OF_METHODS,
    "position_scheme": SCHEMES,
    "video_sampling": OF_READING["sampling"],
    "video_backend": OF_READING["backend"],
}
STAGES = ("enable_stage1", "enable_stage2", "enable_cache_compression")
SWITCHES = (*STAGES, "merge_images")
ALL_OFF: dict[str, Any] = dict.fromkeys(STAGES, False)
"""Options that turn every stage off: the stock model."""
MERGER = (
    "tau", "cluster_ratio", "static_cluster_ratio", "cluster_scope", "temporal_segment_ratio", "dpc_knn_k",
    "min_cluster_tokens", "merged_position", "token_order", "merge_images",
)  # fmt: skip
"""Flat names of options of mergers."""
SELECTOR = (
    "keep_ratio", "keep_threshold", "max_keep_ratio", "min_keep_tokens", "budget_scope", "glimpse_path",
    "pruning_layer", "attention_source", "selection_scope", "attention_aggregation", "question_tokens",
)  # fmt: skip
"""Flat names of options of selectors; ``random_seed`` is both's."""
READING = {
    "max_frames": "max_frames", "video_sampling": "sampling", "fps": "fps", "max_pixels": "max_pixels",
    "total_pixels": "total_pixels", "video_backend": "backend", "video_time_limit": "time_limit",
    "vision_chunk_tokens": "chunk_tokens",
}  # fmt: skip
"""Flat names of how videos are read, and their names in `Reading`."""
LATER_READING = tuple(each.name for each in dataclasses.fields(Reading) if each.name not in READING.values())
"""Options of `Reading` that came after 3a0e2fd: their names in `Reading` are all that they have."""


@checked_names("PruneVidConfig has")
@dataclass(frozen=True)
class FlatOptions:
    """The options of 3a0e2fd by their flat names, with that version's defaults. Ranges are checked on construction.

    Args:
        enable_stage1: merge the visual tokens of each video before the decoder, by ``merger``.
        merger: registered name of the stage 1 method. "prunevid" merges static and similar tokens. "rlt" merges each
            location while it looks the same; it reads ``tau`` and ``temporal_segment_ratio``. "visionzip", "vscan",
            "fastvid", "flashvid" and "holitom" also read the vision tower, "cdpruner" the question. "distinct",
            "divprune", "dycoke", "evs", "simplecluster" and "vidcom2" compare the tokens. "pool" (averages of equal
            cells), "uniform" (a grid) and "random" are controls. `prunevid methods` lists all, and the budget of each.
        tau: static threshold in (0, 1]. A location is static if its mean cosine similarity over a segment is greater.
            At 1 nothing is static.
        cluster_ratio: clusters per token of a group, in (0, 1]. At 1 nothing is clustered. Of other mergers it
            is the share of a video's tokens that is left; a control leaves ``max(1, int(n * cluster_ratio))`` of n.
        static_cluster_ratio: clusters per static token of a segment, in (0, 1]. None means ``cluster_ratio``.
        cluster_scope: "per_group" gives each static or dynamic group its share of the clusters. "video" gives the same
            number to the points of the video that are farthest from a denser one: few to a plain background, many to a
            busy place.
        temporal_segment_ratio: temporal segments per temporal position, in (0, 1].
        dpc_knn_k: neighbours of the DPC-KNN density, at least 1. A group of fewer points uses all of them.
        min_cluster_tokens: groups of at most this many tokens are not clustered, at least 0.
        merged_position: the (t, h, w) of a merged token is that of its cluster's "center", the rounded "mean" of its
            members, or that of its "first" member.
        token_order: "spatiotemporal" sorts merged tokens by (t, h, w). "grouped" is the authors' order.
        merge_images: stage 1 merges images too. An image is one temporal position.
        enable_stage2: keep the visual tokens that the question attends to, after layer ``pruning_layer``.
        selector: registered name of the stage 2 method. "prunevid" keeps what the question attends to. "dpp" also
            prefers tokens that differ. "fastv", "vscan" and "holitom" keep what the last token attends to; "holitom"
            merges the others into those kept. "dart" keeps what differs from a few pivots. "pyramiddrop", "sparsevlm"
            and "sparsevlm_plus" cut at several layers. "uniform" and "random" are controls. "glimpse" asks a trained
            predictor, "oracle" the marks given to `pruned`; both keep as many tokens as ``keep_threshold`` allows.
        keep_ratio: share kept of the visual tokens that enter stage 2, in (0, 1]; alpha in the paper. At 1 all stay. A
            selector with a threshold reads it under ``keep_threshold=None`` alone. Of a selector that cuts at several
            layers it is the average over all layers of the decoder.
        keep_threshold: "glimpse" and "oracle" keep the tokens whose probability is greater, in [0, 1). None keeps the
            best ``keep_ratio`` instead.
        max_keep_ratio: largest share that ``keep_threshold`` may keep, in (0, 1]. None means no cap.
        min_keep_tokens: smallest number of tokens that ``keep_threshold`` keeps, at least 1.
        budget_scope: "sample" counts all images and videos of a prompt together for ``keep_threshold``,
            ``max_keep_ratio`` and ``min_keep_tokens``, as GlimpsePrune's authors do. "image" counts each by itself.
        glimpse_path: folder or hub id of the predictor of selector "glimpse". "bundled" is that of the toy "bundled".
        pruning_layer: tokens are dropped after this decoder layer, counted from 0. A float in (0, 1) is a share of the
            depth. None is the layer that the selector was trained for, else 10 in models of at least 20 layers and
            ``int(layers * 10 / 28)`` in shallower ones.
        attention_source: "post_rope" scores by the model's own causal attention. "pre_rope" scores as the authors' code
            does: before rotary embedding, without the causal mask.
        selection_scope: "global" keeps the best tokens of each video, "per_group" the best of every static or dynamic
            group.
        attention_aggregation: "max" or "mean" over the question's tokens, after the maximum over heads.
        question_tokens: text that asks. "all" is everything after the last video or image, the template's own tokens
            included. "question" is the user's words in it; where there are none, or the turn has no end token, it is
            "all". "last" is the prompt's last token.
        random_seed: of the "random" merger and selector, at least 0. Equal seeds and sizes keep equal tokens.
        enable_cache_compression: stage 3, cut the caches of the earlier layers to the kept tokens.
        position_scheme: "reference" gives the M-RoPE positions that Qwen2.5-VL was trained with. "hf" leaves those of
            the installed transformers.
        max_frames: largest number of frames taken of a video, at least 2.
        video_sampling: "uniform" takes ``max_frames`` frames, equally spaced. "fps" takes ``fps`` frames a second, at
            most ``max_frames``.
        fps: frames a second for ``video_sampling="fps"``, above 0.
        max_pixels: largest number of pixels of a frame. None means the model's own limit.
        total_pixels: largest number of pixels of a whole video; 784 of them are a visual token (Qwen3-VL: 1024). None
            means no limit.
        video_backend: library that reads video files.
        video_time_limit: seconds that reading a video may take, above 0, checked between frames. None means no limit.
        vision_chunk_tokens: visual tokens that the vision encoder takes at once, at least 1. It bounds the memory of
            pixels and encoder; features of larger prompts differ in the last bit or not at all. A temporal position is
            never divided. None means no limit.

    Raises:
        ConfigError: a value is outside its range or of the wrong type.
    """

    enable_stage1: bool = True
    merger: str = "prunevid"
    tau: float = 0.8
    cluster_ratio: float = 0.5
    static_cluster_ratio: float | None = None
    cluster_scope: str = "per_group"
    temporal_segment_ratio: float = 0.25
    dpc_knn_k: int = 5
    min_cluster_tokens: int = 14
    merged_position: str = "center"
    token_order: str = "spatiotemporal"
    merge_images: bool = False
    enable_stage2: bool = True
    selector: str = "prunevid"
    keep_ratio: float = 0.4
    keep_threshold: float | None = 0.5
    max_keep_ratio: float | None = None
    min_keep_tokens: int = 1
    budget_scope: str = "sample"
    glimpse_path: str = "bundled"
    pruning_layer: int | float | None = None
    attention_source: str = "post_rope"
    selection_scope: str = "global"
    attention_aggregation: str = "max"
    question_tokens: str = "all"
    random_seed: int = 0
    enable_cache_compression: bool = True
    position_scheme: str = "reference"
    max_frames: int = 16
    video_sampling: str = "uniform"
    fps: float = 2.0
    max_pixels: int | None = None
    total_pixels: int | None = None
    video_backend: str = "pyav"
    video_time_limit: float | None = 120.0
    vision_chunk_tokens: int | None = 8192

    def __post_init__(self) -> None:
        for name in ("merger", "selector"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                stage = 1 if name == "merger" else 2
                raise ConfigError(f"{name} is the name of a stage {stage} method, got {quoted(getattr(self, name))}")
        for name in SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False, got {quoted(getattr(self, name))}")
        for name in (*MERGER, *SELECTOR, "random_seed"):
            check_option(name, getattr(self, name))
        check_layer("pruning_layer", self.pruning_layer, 0)
        if self.position_scheme not in SCHEMES:
            raise ConfigError(unknown("position_scheme is one of", self.position_scheme, SCHEMES))
        Reading(**{READING[name]: getattr(self, name) for name in READING})


FLAT = {each.name: each.default for each in dataclasses.fields(FlatOptions)}
"""Every flat name and the default that it had in 3a0e2fd."""


def option_types() -> dict[str, Any]:
    """Return name and type of every flat option, in order."""
    return dict(get_type_hints(FlatOptions))


def layers_of(pruning_layer: int | float | None) -> tuple[int | float, ...] | None:
    """Return ``layers`` for a ``pruning_layer``: the layer after it first sees what is kept; a share stays one.

    Raises:
        ConfigError: it is no layer.
    """
    check_layer("pruning_layer", pruning_layer, 0)
    if pruning_layer is None:
        return None
    return (pruning_layer + 1,) if isinstance(pruning_layer, int) else (pruning_layer,)


def pruning_layer_of(layers: Any) -> int | float | None:
    """Return the ``pruning_layer`` that the first of ``layers`` is; None for the depth's default."""
    first = layers[0] if isinstance(layers, tuple) else layers
    return first - 1 if isinstance(first, int) else first
