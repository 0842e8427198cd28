"""Benchmarks as downloaded, each turned into the same records; nothing here downloads, decodes or knows a model.

A YAML file, called as its paper calls the data set, says where its questions and media lie. `dataset_layout` is its
schema.
"""

from prunevid_qwen.evaluation.datasets.check import FolderReport, check
from prunevid_qwen.evaluation.datasets.dataset_layout import Benchmark, benchmark, names
from prunevid_qwen.evaluation.datasets.record import Dataset, Media, Record, Subtitle
from prunevid_qwen.evaluation.datasets.record_reader import read_dataset

__all__ = [
    "Benchmark",
    "Dataset",
    "FolderReport",
    "Media",
    "Record",
    "Subtitle",
    "benchmark",
    "check",
    "names",
    "read_dataset",
]
