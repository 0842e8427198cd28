"""Benchmarks as downloaded, each turned into the same records; nothing here downloads, decodes or knows a model.

A YAML file called as its paper calls the data set says where its questions and media lie (`layout` is its schema), and
`reader` reads by it. `annotations` reads json, jsonl, csv, parquet and what the `datasets` library left in its cache;
`places` finds the files that they name; `choices` turns options and answers of every spelling into texts and letters;
`subtitles` reads what is said. `check` says what is missing or unreadable before a model is loaded.
"""

from prunevid_qwen.evaluation.datasets.check import Report, check
from prunevid_qwen.evaluation.datasets.layout import Benchmark, benchmark, names
from prunevid_qwen.evaluation.datasets.reader import read_dataset
from prunevid_qwen.evaluation.datasets.record import Dataset, Media, Record, Subtitle

__all__ = [
    "Benchmark",
    "Dataset",
    "Media",
    "Record",
    "Report",
    "Subtitle",
    "benchmark",
    "check",
    "names",
    "read_dataset",
]
