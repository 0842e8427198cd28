"""FlashVID's Qwen2.5-VL rows (ICLR 2026): four budgets at 32 frames, of equal tokens averaged over layers."""

from __future__ import annotations

from functools import partial

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.protocol.presets import protocol_named
from prunevid_qwen.evaluation.reproduction.budget import Depth, before_decoder, fastv_config, prunevid_config
from prunevid_qwen.evaluation.reproduction.published import Asked, PublishedTable, Row, Setting, figures, unpruned
from prunevid_qwen.evaluation.reproduction.works import work_of

BUDGETS = (0.25, 0.20, 0.15, 0.10)
EXPANSION, OWN_FIRST, OWN_KEPT = 1.25, 20, 0.3
"""FlashVID's own: 1.25 b enters, after 20 layers 0.3 of that is kept."""

BASE = {
    "videomme": 61.3, "videomme/short": 72.6, "videomme/medium": 61.4, "videomme/long": 49.9, "mvbench": 68.0,
    "egoschema-subset": 60.2, "egoschema-full": 58.3, "longvideobench": 58.9,
}  # fmt: skip
_ORDER = ("videomme", "mvbench", "egoschema-full", "longvideobench")
SCORES: dict[str, tuple[tuple[float, ...], ...]] = {  # a tuple a data set of _ORDER, a score a budget
    "FastV": ((60.2, 59.2, 57.9, 55.9), (67.4, 66.8, 65.9, 63.6), (57.2, 57.1, 56.5, 54.9), (54.6, 54.2, 52.2, 51.1)),
    "VisionZip": (
        (59.9, 59.0, 58.2, 56.4),
        (67.3, 66.4, 66.0, 64.3),
        (57.0, 56.6, 55.7, 55.5),
        (57.1, 56.3, 56.3, 54.5),
    ),
    "FastVID": ((59.6, 58.6, 58.2, 56.3), (65.5, 64.7, 63.6, 62.3), (56.7, 56.4, 56.0, 55.6), (58.0, 57.8, 56.8, 55.4)),
    "FlashVID": (
        (59.6, 59.6, 58.7, 57.3),
        (67.1, 66.5, 66.6, 65.5),
        (57.2, 56.8, 56.4, 55.9),
        (58.1, 58.1, 56.8, 57.1),
    ),
}

_TITLES = {
    "mvbench": "MVBench", "videomme": "Video-MME", "egoschema-subset": "EgoSchema subset",
    "egoschema-full": "EgoSchema full", "longvideobench": "LongVideoBench val",
}  # fmt: skip
# visual tokens of 32 frames, 16 grids: at least 256 a grid, 768 at most, by the usual size of the videos
_TOKENS = {
    "mvbench": 16 * 270, "videomme": 16 * 600, "egoschema-subset": 16 * 300, "egoschema-full": 16 * 300,
    "longvideobench": 16 * 700,
}  # fmt: skip
_NOTES = {
    "FastV": "all tokens through the first 2 layers (the FastV paper's K), so that fewer are kept after them than the "
    "budget: 19.2, 13.8, 8.5 and 3.1 %. Whether FlashVID equalised FastV so, and at which K, is not in what we read",
    "PruneVid": "ours alone, published for no Qwen2.5-VL here. keep_ratio 0.4 after layer 10, clustered, small "
    "groups too (min_cluster_tokens 1), so that the budget is an upper bound; what was spent stands beside it",
    "random": "control, before the decoder",
    "uniform": "control, before the decoder",
}


def _rows() -> list[Row]:
    made = [unpruned(BASE)]
    for place, budget in enumerate(BUDGETS):
        ours = {
            "FastV": partial(fastv_config, budget),
            "PruneVid": partial(prunevid_config, budget),
            "random": partial(_control, "random", budget),
            "uniform": partial(_control, "uniform", budget),
        }
        for method in ("FastV", "VisionZip", "FastVID", "FlashVID", "PruneVid", "random", "uniform"):
            scores = {name: each[place] for name, each in zip(_ORDER, SCORES.get(method, ()), strict=False)}
            note = _NOTES.get(method, "") if place == 0 else ""
            kept = f"{budget:.0%} on average over layers".replace("%", " %") if scores else ""
            name = f"{method} {budget:.0%}".replace("%", " %")
            made.append(Row(name, ours.get(method), figures(scores, BASE), kept, note))
    return made


def _control(merger: str, budget: float, _depth: Depth) -> PruneVidConfig:
    return before_decoder(merger, budget)


def _asked(name: str) -> Asked:
    dataset, _, part = name.partition("-")
    axis = "duration" if dataset == "videomme" else None
    protocol = protocol_named("lmms", dataset)
    return Asked(name, _TITLES[name], dataset, protocol, work_of(name, _TOKENS[name]), part or None, axis)


TABLE = PublishedTable(
    "flashvid",
    "FlashVID: Efficient Video Large Language Models via Training-free Tree-based Spatiotemporal Token Merging (ICLR "
    "2026, arXiv 2602.08024)",
    "the table of Qwen2.5-VL-7B",
    "Read as text by a third party; not compared with the PDF: single digits may be wrong. Rows of other methods in "
    "it are FlashVID's runs of them, not their authors'.",
    (
        Setting(
            "32frames",
            "32, both ends included",
            "lmms-eval's default for Qwen2.5-VL, 256 to 768 tokens a frame after qwen-vl-utils",
            "lmms-eval 0.7.3's of each data set, one second a grid",
            tuple(_asked(name) for name in _TITLES),
            tuple(_rows()),
            (
                "pixels: the authors' script for the baseline has its limits commented out (64 and 256 tokens a frame "
                "are named there as configurable), so that lmms-eval's defaults are the likely, not the certain ones",
                "EgoSchema of pruned rows is of the full set, which its authors' server scores: here it ends in a "
                "file for that server. The subset's scores are published for the baseline alone",
                "the released lmms-eval that was used: prompts differ little, seconds per grid do",
            ),
        ),
    ),
)
