"""Writes tests/data/method_reference/METHOD.npz: some cases of a method, from a file of many.

    python -m tests.make_method_extract FILE METHOD CASE [CASE ...]

The smallest cases that reach every branch are enough: tests of a clone run them, and a clone carries them.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from tests.method_reference import EXTRACT


def extract(source: str, method: str, numbers: list[int]) -> None:
    """Write the cases of these numbers, and the arrays of the method that have no case."""
    with np.load(source) as file:
        arrays = dict(file)
    meta = [
        each
        for each in json.loads(arrays.pop("meta").tobytes())
        if each["method"] == method and each["case"] in numbers
    ]
    assert [each["case"] for each in meta] == sorted(numbers), f"no such case of {method}"
    other = {name.split(".")[1] for name in arrays} - {str(number) for number in numbers}
    taken = {
        name: array
        for name, array in arrays.items()
        if name.split(".")[0] == method and not (name.split(".")[1] in other and name.split(".")[1].isdigit())
    }
    EXTRACT.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        EXTRACT / f"{method}.npz", allow_pickle=False, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **taken
    )


if __name__ == "__main__":
    extract(*sys.argv[1:3], [int(number) for number in sys.argv[3:]])
