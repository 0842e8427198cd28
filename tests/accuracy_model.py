"""The bundled model, one video and one calibration, shared by the tests of the accuracy benchmark."""

from __future__ import annotations

from functools import cache

from prunevid_qwen import PruneVidQwen25VL, get_baseline_config
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.shapes.budgets import Calibration
from prunevid_qwen.evaluation.shapes.methods import Method, methods_called
from prunevid_qwen.evaluation.shapes.videos import FIRST_SEED, ShapesVideo
from prunevid_qwen.moving_shapes.conditions import CONDITIONS

PLAIN = CONDITIONS["plain"]
VIDEO = ShapesVideo(PLAIN, FIRST_SEED)
MERGE = PruneVidConfig(min_cluster_tokens=1, max_pixels=112 * 112)
PLAIN_STAGE_1 = MERGE.replace(enable_stage2=False, enable_cache_compression=False)


@cache
def bundled() -> PruneVidQwen25VL:
    return PruneVidQwen25VL("bundled", get_baseline_config(), device="cpu", dtype="float32")


@cache
def calibrated() -> Calibration:
    return Calibration(bundled(), PLAIN, 3)


def asked(method: str) -> Method:
    return methods_called([method])[0]
