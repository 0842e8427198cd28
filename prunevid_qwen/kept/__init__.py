"""Which visual tokens were kept, merged or dropped, and where they lie: plain data on the host."""

from prunevid_qwen.kept.from_trace import kept_of as kept_of
from prunevid_qwen.kept.value import Kept as Kept
from prunevid_qwen.kept.value import KeptCell as KeptCell
from prunevid_qwen.kept.value import KeptMedium as KeptMedium
from prunevid_qwen.kept.value import KeptStep as KeptStep
