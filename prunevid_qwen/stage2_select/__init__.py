"""Stage 2: selecting visual tokens after a decoder layer. One import per method: that registers it."""

from prunevid_qwen.stage2_select.dart import DART as DART
from prunevid_qwen.stage2_select.dpp import DPP as DPP
from prunevid_qwen.stage2_select.dpp import greedy_dpp as greedy_dpp
from prunevid_qwen.stage2_select.fastv import FastV as FastV
from prunevid_qwen.stage2_select.glimpse import Glimpse as Glimpse
from prunevid_qwen.stage2_select.holitom import HoliTom as HoliTom
from prunevid_qwen.stage2_select.oracle import Oracle as Oracle
from prunevid_qwen.stage2_select.prunevid import PruneVid as PruneVid
from prunevid_qwen.stage2_select.prunevid import max_max_scores as max_max_scores
from prunevid_qwen.stage2_select.prunevid import select_per_group as select_per_group
from prunevid_qwen.stage2_select.pyramiddrop import PyramidDrop as PyramidDrop
from prunevid_qwen.stage2_select.random import Random as Random
from prunevid_qwen.stage2_select.sparsevlm import SparseVLM as SparseVLM
from prunevid_qwen.stage2_select.sparsevlm_plus import SparseVLMPlus as SparseVLMPlus
from prunevid_qwen.stage2_select.topk import stratified_topk as stratified_topk
from prunevid_qwen.stage2_select.uniform import Uniform as Uniform
from prunevid_qwen.stage2_select.vscan import VScan as VScan

__all__ = [
    "DART",
    "DPP",
    "FastV",
    "Glimpse",
    "HoliTom",
    "Oracle",
    "PruneVid",
    "PyramidDrop",
    "Random",
    "SparseVLM",
    "SparseVLMPlus",
    "Uniform",
    "VScan",
    "greedy_dpp",
    "max_max_scores",
    "select_per_group",
    "stratified_topk",
]
