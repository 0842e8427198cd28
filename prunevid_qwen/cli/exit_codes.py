"""The exit codes of every command: one table, shown by each ``--help`` and by the documentation."""

from __future__ import annotations

EXIT_CODES: dict[int, str] = {
    0: "done; `ask` answered, `batch` answered every question",
    2: "bad option, bad file, or the folder holds another run; nothing was started",
    3: "environment: a device, a package, a supported version or the network is missing",
    4: "media or data are missing or unreadable; what could be answered is kept",
    5: "pruning was asked for and was not applied",
    129: "ended by a closed terminal (SIGHUP)",
    130: "ended by Ctrl-C (SIGINT)",
    143: "ended by SIGTERM",
}
"""Code and its meaning. A stopped run keeps what it stored, and the same command goes on. A bug shows its traceback."""
