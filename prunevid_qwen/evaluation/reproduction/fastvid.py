"""FastVID's Qwen2.5-VL rows (NeurIPS 2025, table 4): Video-MME at up to 768 frames."""

from __future__ import annotations

from prunevid_qwen.evaluation.protocol.protocol import TOKEN_PIXELS, Protocol
from prunevid_qwen.evaluation.reproduction.budget import before_decoder
from prunevid_qwen.evaluation.reproduction.published import Asked, PublishedTable, Row, Setting, figures, unpruned
from prunevid_qwen.evaluation.reproduction.works import work_of

LONG = "2 a second, 4 to 768"
STAGE_1_KEPT = 0.245
MEAN_TOKENS = 13_447

_GROUPS = ("videomme", "videomme/short", "videomme/medium", "videomme/long")


def _scores(*values: float) -> dict[str, float]:
    return dict(zip(_GROUPS, values, strict=True))


BASE = _scores(67.3, 76.7, 68.2, 56.9)


def long_video(dataset: str, prompt: str) -> Protocol:
    """Return 2 frames a second, at most 768, and never more than 16,384 visual tokens.

    The least pixels of a frame are 32 tokens, not Qwen's 128: 384 pairs of frames of 128 tokens would be 51,610 tokens,
    and the limit would not hold.
    """
    return Protocol(
        dataset, prompt, sampler="fps", fps=2.0, min_frames=4, frames=768, min_pixels=32 * TOKEN_PIXELS,
        max_pixels=768 * TOKEN_PIXELS, total_pixels=16_384 * TOKEN_PIXELS,
    )  # fmt: skip


TABLE = PublishedTable(
    "fastvid",
    "FastVID: Dynamic Density Pruning for Fast Video Large Language Models (NeurIPS 2025)",
    "table 4: Qwen2.5-VL-7B on Video-MME",
    "Read as text by a third party; not compared with the PDF: single digits may be wrong.",
    (
        Setting(
            "768frames",
            LONG + " (theirs: at most 768)",
            "at most 16,384 visual tokens a video (theirs: the same, 13,447 on average); 32 to 768 a frame are ours",
            "lmms-eval's for Video-MME (theirs is not stated in what we read)",
            (
                Asked(
                    "videomme", "Video-MME", "videomme", long_video("videomme", "lmms"),
                    work_of("videomme", MEAN_TOKENS), axis="duration",
                ),
            ),
            (
                unpruned(BASE),
                Row(
                    "PruneVid stage 1",
                    lambda _depth: before_decoder("prunevid", STAGE_1_KEPT),
                    figures(_scores(59.3, 67.0, 59.4, 51.6), BASE),
                    "24.5 % entering the decoder",
                    "theirs is called PruneVid*: stage 1 alone, re-implemented by them; by which cluster_ratio is not "
                    "stated. Ours clusters every group (min_cluster_tokens 1) so that 24.5 % is an upper bound; what "
                    "looks alike over time is merged on top",
                ),
                Row("FastVID", None, figures(_scores(62.8, 74.3, 61.3, 52.8), BASE), "24.1 % entering the decoder"),
                Row("random", lambda _depth: before_decoder("random", STAGE_1_KEPT), {}, "", "control"),
                Row("uniform", lambda _depth: before_decoder("uniform", STAGE_1_KEPT), {}, "", "control"),
            ),
            (
                "the least pixels of a frame, the frame rate and the prompt",
                "seconds per grid: this setting tells the model the true time, lmms-eval's releases of that time did "
                "not",
            ),
        ),
    ),
)  # fmt: skip
