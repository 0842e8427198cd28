"""Tiny random models of each family's real architecture, and hand-made inputs: no download, no processor, a tenth of a
second on a CPU. The self-check and the tests prove what they prove on these.
"""

from prunevid_qwen.adapters.tiny.family import END as END
from prunevid_qwen.adapters.tiny.family import EOS as EOS
from prunevid_qwen.adapters.tiny.family import IMAGE as IMAGE
from prunevid_qwen.adapters.tiny.family import MERGE as MERGE
from prunevid_qwen.adapters.tiny.family import PAD as PAD
from prunevid_qwen.adapters.tiny.family import PATCH as PATCH
from prunevid_qwen.adapters.tiny.family import SIDE as SIDE
from prunevid_qwen.adapters.tiny.family import START as START
from prunevid_qwen.adapters.tiny.family import VIDEO as VIDEO
from prunevid_qwen.adapters.tiny.family import VOCAB as VOCAB
from prunevid_qwen.adapters.tiny.model import tiny_inputs as tiny_inputs
from prunevid_qwen.adapters.tiny.model import tiny_model as tiny_model
from prunevid_qwen.adapters.tiny.rows import EXAMPLES as EXAMPLES
from prunevid_qwen.adapters.tiny.rows import FAMILIES as FAMILIES
from prunevid_qwen.adapters.tiny.rows import installed_families as installed_families
