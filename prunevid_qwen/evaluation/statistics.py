"""Old place of `report.intervals`, until every caller has moved."""

from prunevid_qwen.evaluation.report.intervals import DRAWS as DRAWS
from prunevid_qwen.evaluation.report.intervals import Estimate as Estimate
from prunevid_qwen.evaluation.report.intervals import clustered_mean as clustered_mean
from prunevid_qwen.evaluation.report.intervals import paired_difference as paired_difference
