"""The options of the methods of papers, one file a method, and their names. Imports no torch.

`config.methods` and `config.mergers` join these tables with their own.
"""

from __future__ import annotations

from prunevid_qwen.config.method_options.dycoke import DyCokeOptions as DyCokeOptions
from prunevid_qwen.config.method_options.fastvid import FastVIDOptions as FastVIDOptions
from prunevid_qwen.config.method_options.flashvid import FlashVIDOptions as FlashVIDOptions
from prunevid_qwen.config.method_options.vidcom2 import VidCom2Options as VidCom2Options

# One line for each class, in the order of the files, and one line in the table of its stage.

MERGERS: dict[str, type] = {
    "dycoke": DyCokeOptions,
    "fastvid": FastVIDOptions,
    "flashvid": FlashVIDOptions,
    "vidcom2": VidCom2Options,
}
SELECTORS: dict[str, type] = {}
