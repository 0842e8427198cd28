"""PruneVid's Qwen2.5-VL rows (ACL 2025 Findings, appendix, table 6), under the two settings they may come from."""

from __future__ import annotations

from prunevid_qwen.config import PruneVidConfig, get_paper_config, get_reference_config
from prunevid_qwen.evaluation.protocol.presets import protocol_named
from prunevid_qwen.evaluation.protocol.protocol import Protocol
from prunevid_qwen.evaluation.reproduction.budget import Depth, before_decoder
from prunevid_qwen.evaluation.reproduction.fastvid import LONG, STAGE_1_KEPT, long_video
from prunevid_qwen.evaluation.reproduction.published import (
    Asked,
    Figure,
    PublishedTable,
    Row,
    Setting,
    figures,
    unpruned,
)
from prunevid_qwen.evaluation.reproduction.works import work_of

BASE = {"videomme": 65.3, "mvbench": 65.5, "egoschema-subset": 64.0, "egoschema-full": 61.0}
PRUNED = {"videomme": 64.8, "mvbench": 64.9, "egoschema-subset": 63.0, "egoschema-full": 60.3}
KEPT = "18.1 % after layer 10 (0.21x FLOPs)"

_SIXTEEN = {"sampler": "mvbench_mid", "frames": 16, "max_new_tokens": 100}
_TITLES = (("mvbench", "MVBench"), ("videomme", "Video-MME"), ("egoschema-subset", "EgoSchema subset"),
           ("egoschema-full", "EgoSchema full"))  # fmt: skip
_PROMPTS = {"mvbench": "videochat2", "videomme": "videomme_official", "egoschema": "videochat2"}


def _paper(_depth: Depth) -> PruneVidConfig:
    return get_paper_config()


def _reference(_depth: Depth) -> PruneVidConfig:
    return get_reference_config()


def _asked(protocols: dict[str, Protocol], tokens: int) -> tuple[Asked, ...]:
    made = []
    for name, title in _TITLES:
        dataset, _, part = name.partition("-")
        axis = "duration" if dataset == "videomme" else None
        made.append(Asked(name, title, dataset, protocols[dataset], work_of(name, tokens), part or None, axis))
    return tuple(made)


_OWN = {
    "mvbench": protocol_named("mvbench_videochat2", "mvbench"),
    **{name: Protocol(name, _PROMPTS[name], **_SIXTEEN) for name in ("videomme", "egoschema")},  # type: ignore[arg-type]
}
_LONG = {
    "mvbench": long_video("mvbench", "videochat2"),
    "videomme": long_video("videomme", "videomme_official"),
    "egoschema": long_video("egoschema", "videochat2"),
}
_ROWS = (
    unpruned(BASE),
    Row("PruneVid", _paper, figures(PRUNED, BASE), KEPT, "preset `paper`; layer-averaged that is 28.8 % if stage 1 "
        "leaves 45.3 %, as 18.1 % / 0.4 says. Their 0.21x FLOPs does not follow from their formula: at these shares it "
        "gives 0.27x for 3,200 visual tokens, 0.22x for 13,447"),
    Row("PruneVid as coded", _reference, {}, "", "preset `reference`, what the authors' code for PLLaVA does (k 7, "
    "scores before rotary embedding, budgets a group); published for no Qwen2.5-VL"),
)  # fmt: skip

TABLE = PublishedTable(
    "prunevid_table6",
    "PruneVid: Visual Token Pruning for Efficient Video Large Language Models (Huang, Zhou, Han; ACL 2025 Findings, "
    "arXiv 2412.16117)",
    "appendix, table 6: the rows of Qwen2.5-VL-7B",
    "A third party's note of page 13, read as text; not compared with the PDF: single digits may be wrong. The "
    "authors' repository has no code for Qwen2.5-VL.",
    (
        Setting(
            "16frames",
            "16, the middles of equal segments: what the authors use for their other models",
            "Qwen's own limits, 128 to 768 tokens a frame (theirs are not published)",
            "VideoChat2's for MVBench and EgoSchema, Video-MME's official one",
            _asked(_OWN, 8 * 400),
            _ROWS,
            (
                "frames, pixels and prompt of table 6 are not stated",
                "16 frames are a guess that their Video-MME baseline speaks against: 65.3 is what Qwen's report has "
                "at up to 768 frames (65.1), and FlashVID has 61.3 at 32 frames",
                "their Video-MME prompt is a system sentence around an MVBench-like text, whose exact form for "
                "Qwen2.5-VL is not known; here it is Video-MME's official one",
            ),
        ),
        Setting(
            "768frames",
            LONG,
            "16,384 visual tokens a video at most, 32 to 768 a frame: FastVID's setting, the second candidate",
            "as under 16frames",
            _asked(_LONG, 13_447),
            (
                *_ROWS,
                Row(
                    "PruneVid stage 1",
                    lambda _depth: before_decoder("prunevid", STAGE_1_KEPT),
                    {"videomme": Figure(59.3, 67.3)},
                    "24.5 % entering the decoder",
                    "the figures are FastVID's (its PruneVid*, with its own baseline of 67.3), not table 6's; their "
                    "cluster_ratio is not stated, ours makes 24.5 % an upper bound (min_cluster_tokens 1)",
                ),
            ),
            (
                "frames, pixels and prompt of table 6 are not stated",
                "table 6 (-0.5 on Video-MME at 18.1 %) and FastVID's PruneVid* (-8.0 at 24.5 %, stage 1 alone) "
                "contradict each other as evidence on one method: this setting runs both",
            ),
        ),
    ),
)
