"""PruneVidConfig: every option of the method in one flat, frozen, validated dataclass. Imports no torch.

The values are those of PruneVid (arXiv 2412.16117) as the Qwen2.5-VL port sets them; each default's source stands in
PAPERS.md. A flat dataclass on purpose: command line, JSON and Python share one list of names.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from prunevid_qwen.config.checks import (
    THRESHOLD_SELECTORS,
    check_count,
    check_share,
    check_threshold,
    checked_names,
    is_number,
    unknown,
)
from prunevid_qwen.errors import ConfigError, excerpt, quoted

CHOICES: dict[str, tuple[str, ...]] = {
    "cluster_scope": ("per_group", "video"),
    "merged_position": ("center", "mean", "first"),
    "token_order": ("spatiotemporal", "grouped"),
    "attention_source": ("post_rope", "pre_rope"),
    "selection_scope": ("global", "per_group"),
    "attention_aggregation": ("max", "mean"),
    "question_tokens": ("all", "question", "last"),
    "budget_scope": ("sample", "image"),
    "position_scheme": ("reference", "hf"),
    "video_sampling": ("uniform", "fps"),
    "video_backend": ("pyav", "decord", "opencv", "torchcodec", "qwen-vl-utils"),
}

REPORTING = ("verbose", "collect_stats")
"""Fields that say what is reported of a run and do not change it."""


@checked_names("PruneVidConfig has")
@dataclass(frozen=True)
class PruneVidConfig:
    """What is pruned, where and how hard; how a video is sampled. Ranges are checked on construction.

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
        selector: registered name of the stage 2 method. "glimpse" asks a trained predictor, "oracle" whoever calls
            `pruned` with marks; both keep as many tokens as ``keep_threshold`` says.
        keep_ratio: share of the visual tokens entering stage 2 that is kept, in (0, 1]; alpha in the paper. 1 keeps
            all. Selectors with a threshold read another value only under ``keep_threshold=None``.
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
        verbose: let `PruneVidQwen25VL.generate` log a line for each stage, see `stage_log`.
        collect_stats: let it return "stats", unless its ``return_stats`` says otherwise. These two only report: configs
            that differ in them are equal, and `to_dict`, JSON and receipts leave them out. `pruned` reads neither.

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
    verbose: bool = field(default=False, compare=False)
    collect_stats: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        for name in ("tau", "cluster_ratio", "temporal_segment_ratio", "keep_ratio"):
            check_share(name, getattr(self, name))
        for name in ("static_cluster_ratio", "max_keep_ratio"):
            if getattr(self, name) is not None:
                check_share(name, getattr(self, name))
        for name in ("enable_stage1", "enable_stage2", "enable_cache_compression", "merge_images", *REPORTING):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False, got {quoted(getattr(self, name))}")
        for name, least in (("dpc_knn_k", 1), ("min_cluster_tokens", 0), ("max_frames", 2), ("random_seed", 0),
                            ("min_keep_tokens", 1)):  # fmt: skip
            check_count(name, getattr(self, name), least)
        for name in ("max_pixels", "total_pixels"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 28 * 28)
        if self.vision_chunk_tokens is not None:
            check_count("vision_chunk_tokens", self.vision_chunk_tokens, 1)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(unknown(f"{name} is one of", getattr(self, name), allowed))
        for name, what in (
            ("merger", "the name of a stage 1 method"),
            ("selector", "the name of a stage 2 method"),
            ("glimpse_path", "a folder, a hub id or 'bundled'"),
        ):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ConfigError(f"{name} is {what}, got {quoted(getattr(self, name))}")
        check_threshold(self)
        if not is_number(self.fps) or not 0 < self.fps < math.inf:
            raise ConfigError(f"fps is a number above 0, got {quoted(self.fps)}")
        limit = self.video_time_limit
        if limit is not None and (not is_number(limit) or not limit > 0):
            raise ConfigError(f"video_time_limit is a number of seconds above 0, or None; got {quoted(limit)}")
        self._check_layer()

    def _check_layer(self) -> None:
        m = self.pruning_layer
        if m is None:
            return
        if not is_number(m):
            raise ConfigError(f"pruning_layer is a layer index, a share in (0, 1) or None, got {quoted(m)}")
        if isinstance(m, int) and m < 0:
            raise ConfigError(f"pruning_layer counts from 0, got {m}")
        if isinstance(m, float) and not 0 < m < 1:
            raise ConfigError(f"a float pruning_layer is a share of the depth in (0, 1), got {m}; an index is an int")

    @property
    def fixed_keep_ratio(self) -> float | None:
        """The share that stage 2 is asked to keep, or None where a threshold decides."""
        decides = self.selector in THRESHOLD_SELECTORS and self.keep_threshold is not None and self.keep_ratio != 1
        return None if decides else self.keep_ratio

    def replace(self, **changes: Any) -> PruneVidConfig:
        """Return a copy with some options changed; names and refusals are those of `from_dict`."""
        own = dataclasses.asdict(self)
        if "pruning_rate" in changes and "keep_ratio" not in changes:
            del own["keep_ratio"]  # the rate replaces it; only both among the changes is a contradiction
        return type(self).from_dict({**own, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return every option that decides an answer by name, ready for JSON: not ``verbose`` and ``collect_stats``."""
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.compare}

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> PruneVidConfig:
        """Build from names and values, ``verbose`` and ``collect_stats`` among them; the default for what is left out.

        ``pruning_rate`` (the share removed) is accepted here instead of ``keep_ratio``, never beside it.

        Raises:
            ConfigError: an unknown name (the nearest known one is offered), or a bad value.
        """
        options = dict(options)
        if "pruning_rate" in options:
            if "keep_ratio" in options:
                raise ConfigError("keep_ratio and pruning_rate say the same thing twice: give keep_ratio alone")
            rate = options.pop("pruning_rate")
            if not is_number(rate) or not 0 <= rate < 1:
                raise ConfigError(f"pruning_rate is the share removed, in [0, 1), got {quoted(rate)}")
            options["keep_ratio"] = 1.0 - rate
        return cls(**options)

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the options as JSON text; also write them to ``path`` when given."""
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> PruneVidConfig:
        """Read options from a JSON file, or from JSON text (anything that starts with a brace).

        Raises:
            ConfigError: the file is missing, the text is not a JSON object, or an option is unknown or bad.
        """
        text = str(source)
        if not text.lstrip().startswith("{"):
            path = Path(source)
            if not os.path.isfile(path):  # unlike Path.is_file, no error for a name that is too long
                raise ConfigError(
                    f"no config file at {excerpt(str(path))}: pass a JSON file, or the name of a preset to get_config"
                )
            text = path.read_text(encoding="utf-8")
        try:
            options = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"config {source!s:.80} is not JSON: {error}") from error
        if not isinstance(options, dict):
            raise ConfigError(f"a config is a JSON object of options, got {type(options).__name__}")
        return cls.from_dict(options)


def option_types() -> dict[str, Any]:
    """Return name and type of every option that decides an answer, in order: all fields but those that only report."""
    types = get_type_hints(PruneVidConfig)
    return {each.name: types[each.name] for each in dataclasses.fields(PruneVidConfig) if each.compare}


def resolve_layer(pruning_layer: int | float | None, layers: int) -> int:
    """Turn ``pruning_layer`` into an index for a model of ``layers`` decoder layers (prunevid.md section 7).

    Raises:
        ConfigError: the index is beyond the model; the message names the share that was probably meant.
    """
    if pruning_layer is None:
        return 10 if layers >= 20 else int(layers * 10 / 28)
    if isinstance(pruning_layer, float):
        return int(pruning_layer * layers)
    if pruning_layer >= layers:
        share = 10 / 28 if pruning_layer == 10 else min(0.99, pruning_layer / 28)
        raise ConfigError(
            f"pruning_layer={pruning_layer}, but this model has {layers} layers (0 to {layers - 1}). "
            f"{pruning_layer} of the 28 layers of a 7B model is a share of {share:.2f}: "
            f"pass pruning_layer={share:.2f} (here layer {int(share * layers)}), or None for the default"
        )
    return pruning_layer
