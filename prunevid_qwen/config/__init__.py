"""Every option of the method in one flat, frozen, validated dataclass, and its presets. Imports no torch."""

from prunevid_qwen.config.base import resolve_layer as resolve_layer
from prunevid_qwen.config.flat import CHOICES as CHOICES
from prunevid_qwen.config.flat import FlatOptions as FlatOptions
from prunevid_qwen.config.flat import option_types as option_types
from prunevid_qwen.config.options import PruneVidConfig as PruneVidConfig
from prunevid_qwen.config.presets import PRESETS as PRESETS
from prunevid_qwen.config.presets import get_aggressive_config as get_aggressive_config
from prunevid_qwen.config.presets import get_baseline_config as get_baseline_config
from prunevid_qwen.config.presets import get_config as get_config
from prunevid_qwen.config.presets import get_conservative_config as get_conservative_config
from prunevid_qwen.config.presets import get_glimpse_config as get_glimpse_config
from prunevid_qwen.config.presets import get_paper_config as get_paper_config
from prunevid_qwen.config.presets import get_recommended_config as get_recommended_config
from prunevid_qwen.config.presets import get_reference_config as get_reference_config
from prunevid_qwen.config.presets import get_stage1_only_config as get_stage1_only_config
