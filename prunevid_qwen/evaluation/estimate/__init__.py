"""An estimate before anything is loaded: tokens, memory, operations and times of a prompt, from configs alone."""

from prunevid_qwen.evaluation.estimate.estimating import PromptEstimate as PromptEstimate
from prunevid_qwen.evaluation.estimate.estimating import PromptNumbers as PromptNumbers
from prunevid_qwen.evaluation.estimate.estimating import Rates as Rates
from prunevid_qwen.evaluation.estimate.estimating import estimate as estimate
