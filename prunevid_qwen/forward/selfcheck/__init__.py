"""Does pruning work with the installed transformers? Asked of a tiny random model, in a second, before a release that
nobody tested is trusted. Knows `hooks` only as the context manager that it is given.
"""

from prunevid_qwen.forward.selfcheck.canary import ensure_checked as ensure_checked
from prunevid_qwen.forward.selfcheck.checks import Attach as Attach
from prunevid_qwen.forward.selfcheck.checks import Check as Check
from prunevid_qwen.forward.selfcheck.checks import SelfCheck as SelfCheck
from prunevid_qwen.forward.selfcheck.checks import self_check as self_check
