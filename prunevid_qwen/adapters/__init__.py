"""All that is known of model families, and of the transformers releases that bring them."""

from prunevid_qwen.adapters.adapter import Adapter as Adapter
from prunevid_qwen.adapters.adapter import Parts as Parts
from prunevid_qwen.adapters.qwen_vl import QwenVL as QwenVL
from prunevid_qwen.adapters.qwen_vl import adapter_for as adapter_for
from prunevid_qwen.adapters.releases import PIP_NEWEST as PIP_NEWEST
from prunevid_qwen.adapters.releases import TESTED as TESTED
from prunevid_qwen.adapters.releases import check_transformers as check_transformers
from prunevid_qwen.adapters.releases import library_agrees as library_agrees
from prunevid_qwen.adapters.releases import warn_once_about_positions as warn_once_about_positions
