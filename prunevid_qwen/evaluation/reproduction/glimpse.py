"""GlimpsePrune on V* (arXiv 2508.01548): accuracy at 2048 visual tokens, and what the pruning saves."""

from __future__ import annotations

from prunevid_qwen.config import PruneVidConfig, get_glimpse_config
from prunevid_qwen.evaluation.protocol.protocol import TOKEN_PIXELS, Protocol
from prunevid_qwen.evaluation.reproduction.budget import Depth
from prunevid_qwen.evaluation.reproduction.published import (
    Asked,
    PublishedTable,
    Row,
    Setting,
    Timed,
    baseline,
    figures,
    unpruned,
)
from prunevid_qwen.evaluation.reproduction.works import work_of

CAP = 0.111
BASE = {"vstar": 71.7}
STOCK_ROW = "stock"

# published: baseline, GlimpsePrune at most 11.1 %, GlimpsePrune+
EFFICIENCY = {
    "prefill TFLOP": (77.8, 53.8, 54.2), "prefill ms": (423.3, 306.9, 309.9), "KV length": (5073.9, 202.5, 291.1),
    "decode ms a token": (29.5, 28.3, 28.4), "generated tokens": (22.0, 24.2, 19.5), "peak GPU GB": (33.5, 24.4, 23.7),
}  # fmt: skip


def _capped(_depth: Depth) -> PruneVidConfig:
    return get_glimpse_config().replace(max_keep_ratio=CAP)


def _unlimited(_depth: Depth) -> PruneVidConfig:
    return get_glimpse_config()


def _fixed(_depth: Depth) -> PruneVidConfig:
    return get_glimpse_config().replace(keep_threshold=None, keep_ratio=CAP)


def _random(depth: Depth) -> PruneVidConfig:
    return PruneVidConfig(enable_stage1=False, selector="random", keep_ratio=CAP, pruning_layer=depth.glimpse_layer)


def _uniform(depth: Depth) -> PruneVidConfig:
    return _random(depth).replace(selector="uniform")


def _image(tokens: int, least: int, answer: int) -> Protocol:
    return Protocol(
        "vstar", "letter", min_pixels=least * TOKEN_PIXELS, max_pixels=tokens * TOKEN_PIXELS, total_pixels=None,
        max_new_tokens=answer,
    )  # fmt: skip


_AFTER = "control, after the same layer"

TABLE = PublishedTable(
    "glimpseprune_vstar",
    "A Glimpse to Compress: Dynamic Visual Token Pruning for Large Vision-Language Models (GlimpsePrune, arXiv "
    "2508.01548)",
    "table 3 (V* of lmms-eval, Qwen2.5-VL-7B) and table 7 (efficiency)",
    "Read as text by a third party; not compared with the PDF: single digits may be wrong. Rows of other methods are "
    "GlimpsePrune's runs of them.",
    (
        Setting(
            "accuracy",
            "single images",
            "256 to 2048 visual tokens an image",
            "question, options, a request for the letter, at most 16 new tokens",
            (Asked("vstar", "V*", "vstar", _image(2048, 256, 16), work_of("vstar", 2048)),),
            (
                unpruned(BASE),
                Row(
                    "GlimpsePrune",
                    _capped,
                    figures({"vstar": 72.8}, BASE),
                    "at most 11.1 % after layer 18",
                    "max_keep_ratio 0.111",
                ),
                Row("GlimpsePrune without cap", _unlimited, figures({"vstar": 72.8}, BASE), "threshold 0.5 alone"),
                Row("PDrop", None, figures({"vstar": 42.4}, BASE), "at most 11.1 %"),
                Row("VisionZip", None, figures({"vstar": 60.2}, BASE), "at most 11.1 %"),
                Row("VScan", None, figures({"vstar": 59.7}, BASE), "at most 11.1 %"),
                Row("random", _random, {}, "", _AFTER),
                Row("uniform", _uniform, {}, "", _AFTER),
            ),
            (
                "lmms-eval's exact text for V* is not known here: options are written `A. ...` instead of `(A) ...`",
                "theirs encodes every image as JPEG again and allows 128 new tokens unless the task says otherwise",
                "191 questions: a standard error of more than 3 points, so 71.7 and 72.8 are one figure",
            ),
        ),
        Timed(
            "efficiency",
            "single images, one prompt at a time (theirs: four)",
            "4 to 4096 visual tokens an image (their MAX_PIXELS=3211264; their least is not stated)",
            "the question without options, an answer of exactly 64 tokens (theirs: its natural length)",
            (Asked("vstar", "V*", "vstar", _image(4096, 4, 64), work_of("vstar", 4096, 64)),),
            (
                Row(STOCK_ROW, None, {}, "100 %", "the stock model, nothing hooked"),
                Row("baseline", baseline, {}, "100 %", "our path with nothing pruned"),
                Row(
                    "GlimpsePrune", _fixed, {}, "exactly 11.1 % after layer 18", "keep_threshold None, keep_ratio 0.111"
                ),
                Row("random", _random, {}, "", _AFTER),
            ),
            tuple(
                f"{name}: {base:g} unpruned, {capped:g} GlimpsePrune at most 11.1 %, {plus:g} GlimpsePrune+"
                for name, (base, capped, plus) in EFFICIENCY.items()
            ),
            (
                "V* efficiency is published as a picture only. The figures in text are of table 7: 100 DocVQA images, "
                "an A100, at most 11.1 %, batch 1; they stand here to compare ratios, not milliseconds",
                "their prefill time leaves the vision tower out, and so does `decoder` here; `first token` has it",
                "their memory holds logits of the whole prompt, which generate() of transformers 5 no longer makes: "
                "the saving of memory was partly that",
            ),
        ),
    ),
    glimpse="ashun989/GlimpsePrune_Qwen2.5-VL-7B-Instruct",
)
