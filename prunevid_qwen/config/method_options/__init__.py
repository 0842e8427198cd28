"""The options of the methods of papers, one file a method, and their names. Imports no torch.

`config.methods` and `config.mergers` join these tables with their own.
"""

from __future__ import annotations

# One line for each class, in the order of the files, and one line in the table of its stage.
from prunevid_qwen.config.method_options.cdpruner import CDPrunerOptions as CDPrunerOptions
from prunevid_qwen.config.method_options.holitom import HoliTomMergeOptions as HoliTomMergeOptions
from prunevid_qwen.config.method_options.simplecluster import SimpleClusterOptions as SimpleClusterOptions

MERGERS: dict[str, type] = {
    "cdpruner": CDPrunerOptions,
    "holitom": HoliTomMergeOptions,
    "simplecluster": SimpleClusterOptions,
}
SELECTORS: dict[str, type] = {}
