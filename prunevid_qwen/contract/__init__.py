"""`check_reducer`: does somebody's method keep what every reducer promises? In torch alone, without a model."""

from prunevid_qwen.contract.method_check import check_reducer as check_reducer
from prunevid_qwen.contract.samples import LAYOUTS as LAYOUTS
from prunevid_qwen.contract.samples import evidence as evidence
from prunevid_qwen.contract.samples import only_what_it_asks_for as only_what_it_asks_for
from prunevid_qwen.contract.variants import VARIANTS as VARIANTS
from prunevid_qwen.contract.variants import variants_of as variants_of
