"""Stage 1: reducing between the vision merger and the decoder. One import per method: that registers it."""

from prunevid_qwen.stage1_merge.cdpruner import CDPruner as CDPruner
from prunevid_qwen.stage1_merge.distinct import Distinct as Distinct
from prunevid_qwen.stage1_merge.divprune import DivPrune as DivPrune
from prunevid_qwen.stage1_merge.dycoke import DyCoke as DyCoke
from prunevid_qwen.stage1_merge.evs import EVS as EVS
from prunevid_qwen.stage1_merge.fastvid import FastVID as FastVID
from prunevid_qwen.stage1_merge.flashvid import FlashVID as FlashVID
from prunevid_qwen.stage1_merge.holitom import HoliTomMerge as HoliTomMerge
from prunevid_qwen.stage1_merge.pool import Pool as Pool
from prunevid_qwen.stage1_merge.prunevid.cluster import dpc_knn as dpc_knn
from prunevid_qwen.stage1_merge.prunevid.method import MergedVideo as MergedVideo
from prunevid_qwen.stage1_merge.prunevid.method import PruneVidMerge as PruneVidMerge
from prunevid_qwen.stage1_merge.prunevid.method import merge_video as merge_video
from prunevid_qwen.stage1_merge.prunevid.segments import refine_segments as refine_segments
from prunevid_qwen.stage1_merge.random import RandomMerge as RandomMerge
from prunevid_qwen.stage1_merge.rlt import RLT as RLT
from prunevid_qwen.stage1_merge.simplecluster import SimpleCluster as SimpleCluster
from prunevid_qwen.stage1_merge.uniform import UniformMerge as UniformMerge
from prunevid_qwen.stage1_merge.vidcom2 import VidCom2 as VidCom2
from prunevid_qwen.stage1_merge.visionzip import VisionZip as VisionZip
from prunevid_qwen.stage1_merge.vscan import VScanMerge as VScanMerge

__all__ = [
    "EVS",
    "RLT",
    "CDPruner",
    "Distinct",
    "DivPrune",
    "DyCoke",
    "FastVID",
    "FlashVID",
    "HoliTomMerge",
    "MergedVideo",
    "Pool",
    "PruneVidMerge",
    "RandomMerge",
    "SimpleCluster",
    "UniformMerge",
    "VScanMerge",
    "VidCom2",
    "VisionZip",
    "dpc_knn",
    "merge_video",
    "refine_segments",
]
