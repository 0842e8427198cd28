"""Benchmarks as downloaded, each turned into the same records by a YAML file; nothing is downloaded or decoded."""

from prunevid_qwen.evaluation.datasets.check import FolderReport as FolderReport
from prunevid_qwen.evaluation.datasets.check import check as check
from prunevid_qwen.evaluation.datasets.dataset_layout import Benchmark as Benchmark
from prunevid_qwen.evaluation.datasets.dataset_layout import benchmark as benchmark
from prunevid_qwen.evaluation.datasets.dataset_layout import names as names
from prunevid_qwen.evaluation.datasets.record import Dataset as Dataset
from prunevid_qwen.evaluation.datasets.record import Media as Media
from prunevid_qwen.evaluation.datasets.record import Record as Record
from prunevid_qwen.evaluation.datasets.record import Subtitle as Subtitle
from prunevid_qwen.evaluation.datasets.record_reader import read_dataset as read_dataset
