"""``python -m lmms_eval --config FILE``: results of each entry as lmms-eval writes them, scores by its config alone.

An entry whose config keeps all tokens scores 0.5 in each metric, any other 0.4. A task called "broken" ends the process
with exit code 1, as an exception does under the verbosity DEBUG.
"""

import json
import sys
from pathlib import Path

METRICS = {
    "mme": ["mme_perception_score", "mme_cognition_score"],
    "pope": ["pope_accuracy", "pope_f1_score"],
    "mmbench_en_dev_static": ["gpt_eval_score"],
}


def results_of(entry: dict, number: int) -> None:
    folder = Path(entry["output_path"])
    config = json.loads((folder / "config.json").read_text())
    value = 0.5 if config["merger"] is None and config["selector"] is None else 0.4
    results, limit = {}, entry.get("limit")
    for task in entry["tasks"].split(","):
        if task == "broken":
            sys.exit(1)
        metrics = METRICS.get(task, ["exact_match"])
        results[task] = {"alias": task}
        for name in metrics:
            results[task] |= {f"{name},none": value, f"{name}_stderr,none": "N/A"}
    found = {
        "results": results,
        "group_subtasks": {task: [] for task in results},
        "n-samples": {task: {"original": 9, "effective": limit or 9} for task in results},
        "config": {"model": entry["model"], "model_args": entry["model_args"], "limit": limit},
    }
    (folder / "prunevid").mkdir(exist_ok=True)
    (folder / "prunevid" / f"20260101_00000{number}_results.json").write_text(json.dumps(found))


if __name__ == "__main__":
    [entries] = [json.loads(Path(each).read_text()) for each in sys.argv[sys.argv.index("--config") + 1 :]]
    with Path(__file__).with_name("calls.txt").open("a") as calls:
        calls.write(json.dumps([entry["model_args"] for entry in entries]) + "\n")
    for number, entry in enumerate(entries):
        results_of(entry, number)
