"""Stage 1: reducing between the vision merger and the decoder. One import per method: that registers it."""

from prunevid_qwen.stage1_merge.dycoke import DyCoke as DyCoke
from prunevid_qwen.stage1_merge.fastvid import FastVID as FastVID
from prunevid_qwen.stage1_merge.flashvid import FlashVID as FlashVID
from prunevid_qwen.stage1_merge.pool import Pool as Pool
from prunevid_qwen.stage1_merge.prunevid.cluster import dpc_knn as dpc_knn
from prunevid_qwen.stage1_merge.prunevid.method import MergedVideo as MergedVideo
from prunevid_qwen.stage1_merge.prunevid.method import PruneVidMerge as PruneVidMerge
from prunevid_qwen.stage1_merge.prunevid.method import merge_video as merge_video
from prunevid_qwen.stage1_merge.prunevid.segments import refine_segments as refine_segments
from prunevid_qwen.stage1_merge.random import RandomMerge as RandomMerge
from prunevid_qwen.stage1_merge.rlt import RLT as RLT
from prunevid_qwen.stage1_merge.uniform import UniformMerge as UniformMerge
from prunevid_qwen.stage1_merge.vidcom2 import VidCom2 as VidCom2

__all__ = [
    "RLT",
    "DyCoke",
    "FastVID",
    "FlashVID",
    "MergedVideo",
    "Pool",
    "PruneVidMerge",
    "RandomMerge",
    "UniformMerge",
    "VidCom2",
    "dpc_knn",
    "merge_video",
    "refine_segments",
]
