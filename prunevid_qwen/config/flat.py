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


@checked_names("PruneVidConfig has")
@dataclass(frozen=True)
class FlatOptions:
    """The options of 3a0e2fd by their flat names, with that version's defaults. Ranges are checked on construction.

    Args:
        enable_stage1: reduce the tokens of each video before the decoder, by ``merger``.
        merger: registered name of the stage 1 method. "prunevid" merges static and similar tokens; "rlt" merges
            each location while it looks the same (reads ``tau`` and ``temporal_segment_ratio``); "pool" (averages of
            equal cells), "uniform" (a grid) and "random" are controls, which read ``cluster_ratio``, ``merge_images``
            and ``random_seed`` alone.
        tau: static threshold in (0, 1]: a location is static where its mean cosine similarity over a segment is
            strictly greater. 1 means that nothing is static.
        cluster_ratio: clusters per token of a group in (0, 1]; 1 merges nothing by clustering. A control merger leaves
            ``max(1, int(n * cluster_ratio))`` of the n tokens of a video.
        static_cluster_ratio: clusters per static token of a segment, in (0, 1], or None for ``cluster_ratio``.
        cluster_scope: "per_group" gives each static or dynamic group its share of clusters; "video" spends the same
            number on the points of the video that are farthest from a denser one: a plain background gets few, a busy
            place many.
        temporal_segment_ratio: temporal segments asked for per temporal position, in (0, 1].
        dpc_knn_k: neighbours of the DPC-KNN density, at least 1 (clipped to the number of points).
        min_cluster_tokens: groups of at most this many tokens are not clustered, at least 0.
        merged_position: whose (t, h, w) a merged token takes: its cluster "center", the rounded "mean" of its members,
            or its "first" member.
        token_order: "spatiotemporal" sorts merged tokens by (t, h, w); "grouped" is the authors' order.
        merge_images: let stage 1 also merge images (one temporal position); off, they pass unmerged.
        enable_stage2: keep the visual tokens that the question attends to, after layer ``pruning_layer``.
        selector: registered name of the stage 2 method. "prunevid" keeps what the question attends to, "dpp" also what
            differs, "fastv" what the last token attends to; "pyramiddrop" and "sparsevlm" cut at several layers;
            "uniform" and "random" are controls. "glimpse" asks a trained predictor, "oracle" whoever calls `pruned`
            with marks; both keep as many tokens as ``keep_threshold`` says.
        keep_ratio: share of the visual tokens entering stage 2 that is kept, in (0, 1]; alpha in the paper. 1 keeps
            all. Selectors with a threshold read another value only under ``keep_threshold=None``. Of one that cuts at
            several layers it is the average over all layers of the decoder.
        keep_threshold: "glimpse" and "oracle" keep the tokens whose probability is strictly greater, in [0, 1); None
            keeps the best ``keep_ratio`` instead, whatever their probabilities.
        max_keep_ratio: share that ``keep_threshold`` may keep at most, in (0, 1], or None for no cap.
        min_keep_tokens: tokens that ``keep_threshold`` keeps at least, the best ones, at least 1.
        budget_scope: what shares and counts of the last three are of: all images and videos of a "sample" together, as
            the authors of GlimpsePrune count, or each "image" or video by itself.
        glimpse_path: folder or hub id of the predictor of selector "glimpse", or "bundled": that of the bundled model.
        pruning_layer: index M of the decoder layer after which tokens are dropped (int), or a share of the depth
            (float in (0, 1)), or None: where the selector was trained to act if it was, else 10 for models of at least
            20 layers, ``int(layers * 10 / 28)`` below.
        attention_source: "post_rope" scores by the model's own causal attention; "pre_rope" as the authors' code,
            before rotary embedding and without the causal mask.
        selection_scope: "global" keeps the best of each video; "per_group" the best of every static or dynamic group.
        attention_aggregation: "max" or "mean" over the question's tokens, after the maximum over heads.
        question_tokens: which text asks. "all" after the last video or image, the template's own tokens included;
            "question", of these the user's words in that turn (all, where there are none or the turn has no end
            token); "last", the prompt's last token.
        random_seed: of the "random" merger and selector, at least 0: equal seeds and sizes keep equal tokens.
        enable_cache_compression: stage 3, cut the cache of layers 0..M to the kept tokens.
        position_scheme: "reference" gives the M-RoPE positions that Qwen2.5-VL was trained with; "hf" leaves those of
            the installed transformers.
        max_frames: frames sampled from a video at most, at least 2.
        video_sampling: "uniform" takes ``max_frames``, equally spaced; "fps" takes ``fps`` a second, at most those.
        fps: frames a second for ``video_sampling="fps"``, above 0.
        max_pixels: pixels a frame at most, or None for the model's own limit.
        total_pixels: pixels of a whole video at most (divided by 784 it is its visual tokens), or None.
        video_backend: which library reads video files.
        video_time_limit: seconds that reading one video may take, above 0, or None; checked between frames.
        vision_chunk_tokens: visual tokens that the vision encoder takes at once, at least 1, or None for no limit: it
            bounds the memory of pixels and encoder. A temporal position is never divided. Prompts within it are encoded
            in one call; the features of larger ones differ in the last bit or not at all.

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
