"""PruneVid's stage 1 (arXiv 2412.16117, section 3.1): segments, static locations, clusters."""

from prunevid_qwen.stage1_merge.prunevid.method import MergedVideo as MergedVideo
from prunevid_qwen.stage1_merge.prunevid.method import PruneVidMerge as PruneVidMerge
from prunevid_qwen.stage1_merge.prunevid.method import merge_video as merge_video
