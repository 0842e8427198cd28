"""GlimpsePrune's selector (arXiv 2508.01548): a glimpse token and a trained predictor of importance, the VIP."""

from prunevid_qwen.stage2_select.glimpse.glimpse import Glimpse as Glimpse
from prunevid_qwen.stage2_select.glimpse.predictor import GlimpseVIP as GlimpseVIP
from prunevid_qwen.stage2_select.glimpse.vip import VIP as VIP
from prunevid_qwen.stage2_select.glimpse.vip import VIPShape as VIPShape

__all__ = ["VIP", "Glimpse", "GlimpseVIP", "VIPShape"]
