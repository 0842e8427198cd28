"""All that is known of model families, and of the transformers releases that bring them."""

from prunevid_qwen.adapters.adapter import Adapter as Adapter
from prunevid_qwen.adapters.adapter import Parts as Parts
from prunevid_qwen.adapters.family_table import Family as Family
from prunevid_qwen.adapters.family_table import adapter_for as adapter_for
from prunevid_qwen.adapters.family_table import families as families
from prunevid_qwen.adapters.family_table import family_of as family_of
from prunevid_qwen.adapters.family_table import register_family as register_family
from prunevid_qwen.adapters.family_table import visual_tokens as visual_tokens
from prunevid_qwen.adapters.internvl import InternVL as InternVL
from prunevid_qwen.adapters.llava import Llava as Llava
from prunevid_qwen.adapters.llava_next import LlavaNext as LlavaNext
from prunevid_qwen.adapters.llava_next_video import LlavaNextVideo as LlavaNextVideo
from prunevid_qwen.adapters.llava_onevision import LlavaOnevision as LlavaOnevision
from prunevid_qwen.adapters.qwen3_5 import Qwen3_5 as Qwen3_5
from prunevid_qwen.adapters.qwen3_vl import Qwen3VL as Qwen3VL
from prunevid_qwen.adapters.qwen_vl import QwenVL as QwenVL
from prunevid_qwen.adapters.releases import check_transformers as check_transformers
from prunevid_qwen.adapters.releases import library_agrees as library_agrees
from prunevid_qwen.adapters.releases import warn_once_about_positions as warn_once_about_positions
from prunevid_qwen.adapters.video_llava import VideoLlava as VideoLlava
