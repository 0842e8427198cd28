"""What happened: the receipt of an answer, and whether the pruning that was asked for was done."""

from prunevid_qwen.receipt.applied import check_applied as check_applied
from prunevid_qwen.receipt.applied import log_warnings as log_warnings
from prunevid_qwen.receipt.applied import warnings_of as warnings_of
from prunevid_qwen.receipt.receipt import receipt as receipt
from prunevid_qwen.receipt.receipt import versions as versions
