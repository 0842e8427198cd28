"""Benchmarks as downloaded, each turned into the same records; nothing here downloads, decodes or knows a model.

`registry` names the readers and finds one; a reader is a file called as its paper calls the data set. `annotations`
reads json, jsonl, parquet and what the `datasets` library left in its cache; `places` finds the files that they name;
`choices` turns options and answers of every spelling into texts and letters; `subtitles` reads what is said. `check`
says what is missing or unreadable before a model is loaded; `egoschema_submission` writes what EgoSchema's server
marks.
"""

from prunevid_qwen.evaluation.datasets import egoschema, longvideobench, mlvu, mvbench, videomme, vstar  # noqa: F401
from prunevid_qwen.evaluation.datasets.check import Report, check
from prunevid_qwen.evaluation.datasets.egoschema_submission import write_submission
from prunevid_qwen.evaluation.datasets.record import Media, Record, Subtitle
from prunevid_qwen.evaluation.datasets.registry import Dataset, benchmark, names, read_dataset

__all__ = [
    "Dataset",
    "Media",
    "Record",
    "Report",
    "Subtitle",
    "benchmark",
    "check",
    "names",
    "read_dataset",
    "write_submission",
]
