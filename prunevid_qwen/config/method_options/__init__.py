"""The options of the methods of papers, one file a method, and their names. Imports no torch.

`config.methods` and `config.mergers` join these tables with their own.
"""

from __future__ import annotations

# One line for each class, in the order of the files, and one line in the table of its stage.
from prunevid_qwen.config.method_options.cdpruner import CDPrunerOptions as CDPrunerOptions
from prunevid_qwen.config.method_options.dart import DARTOptions as DARTOptions
from prunevid_qwen.config.method_options.distinct import DistinctOptions as DistinctOptions
from prunevid_qwen.config.method_options.divprune import DivPruneOptions as DivPruneOptions
from prunevid_qwen.config.method_options.dycoke import DyCokeOptions as DyCokeOptions
from prunevid_qwen.config.method_options.evs import EVSOptions as EVSOptions
from prunevid_qwen.config.method_options.fastvid import FastVIDOptions as FastVIDOptions
from prunevid_qwen.config.method_options.flashvid import FlashVIDOptions as FlashVIDOptions
from prunevid_qwen.config.method_options.holitom import HoliTomMergeOptions as HoliTomMergeOptions
from prunevid_qwen.config.method_options.holitom_inner import HoliTomOptions as HoliTomOptions
from prunevid_qwen.config.method_options.simplecluster import SimpleClusterOptions as SimpleClusterOptions
from prunevid_qwen.config.method_options.sparsevlm_plus import SparseVLMPlusOptions as SparseVLMPlusOptions
from prunevid_qwen.config.method_options.vidcom2 import VidCom2Options as VidCom2Options
from prunevid_qwen.config.method_options.visionzip import VisionZipOptions as VisionZipOptions
from prunevid_qwen.config.method_options.vscan import VScanMergeOptions as VScanMergeOptions
from prunevid_qwen.config.method_options.vscan_inner import VScanOptions as VScanOptions

MERGERS: dict[str, type] = {
    "cdpruner": CDPrunerOptions,
    "distinct": DistinctOptions,
    "divprune": DivPruneOptions,
    "dycoke": DyCokeOptions,
    "evs": EVSOptions,
    "fastvid": FastVIDOptions,
    "flashvid": FlashVIDOptions,
    "holitom": HoliTomMergeOptions,
    "simplecluster": SimpleClusterOptions,
    "vidcom2": VidCom2Options,
    "visionzip": VisionZipOptions,
    "vscan": VScanMergeOptions,
}
SELECTORS: dict[str, type] = {
    "dart": DARTOptions,
    "holitom": HoliTomOptions,
    "sparsevlm_plus": SparseVLMPlusOptions,
    "vscan": VScanOptions,
}
