"""The folder of a speed run: what was run on what, and every measurement on a line of its own as soon as it is made."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.accuracy_folder import RECORD, read_record, surroundings, write_record
from prunevid_qwen.receipt import versions

MEASUREMENTS = "measurements.jsonl"

_WRITTEN = (MEASUREMENTS, RECORD, "efficiency.json", "efficiency.csv", "report.md")

Line = dict[str, Any]


def open_folder(folder: Path, options: dict[str, Any], command: str, restart: bool = False) -> dict[str, Any]:
    """Make a folder ready for measurements, or find it begun by the same run.

    Args:
        folder: made where it is missing.
        options: that have to be equal for measurements to stand in one table.
        command: what was typed.
        restart: throw away what the folder holds.

    Returns: the record: options, command, versions, hardware, commit.

    Raises:
        ConfigError: the folder holds another run, or a run of other code or on other hardware.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if restart:
        for name in _WRITTEN:
            (folder / name).unlink(missing_ok=True)
    if (folder / MEASUREMENTS).exists() and not (folder / RECORD).exists():
        raise ConfigError(f"{folder} holds measurements, but no {RECORD} says of what: pass --restart")
    machine = hardware(options["device"])
    before = read_record(folder, options)
    if before is not None:
        if before["hardware"] != machine:
            raise ConfigError(f"{folder} holds a run on other hardware: pass --restart, or another folder")
        return before
    record = {
        "what": "time, memory and FLOPs with and without pruning, taken in turns",
        "options": options, "command": command, "versions": versions(), "hardware": machine, **surroundings(),
    }  # fmt: skip
    write_record(folder, record)
    return record


def hardware(device: str) -> dict[str, Any]:
    """Say what is measured on."""
    found: dict[str, Any] = {
        "device": device,
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    found["threads"] = torch.get_num_threads()
    if torch.device(device).type == "cuda":
        about = torch.cuda.get_device_properties(torch.device(device))
        found |= {"gpu": about.name, "gpu_memory": about.total_memory, "cuda": torch.version.cuda}
        found["capability"] = list(torch.cuda.get_device_capability(torch.device(device)))
    return found


def add_line(folder: Path, line: Line) -> None:
    """Append a measurement; after a return it outlives a kill."""
    with (folder / MEASUREMENTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_lines(folder: Path) -> list[Line]:
    """Read the measurements made so far; a torn last line is cut off the file.

    Raises:
        ConfigError: no measurements, so no such run.
    """
    path = folder / MEASUREMENTS
    if not path.exists():
        raise ConfigError(f"no {MEASUREMENTS} in {folder}: is it the folder of `prunevid bench speed`?")
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        os.truncate(path, len(whole.encode()))
    return [json.loads(line) for line in whole.splitlines()]


def cell_of(line: Line) -> tuple[int, int]:
    """Frames and batch of a measurement."""
    return line["frames"], line["batch"]
