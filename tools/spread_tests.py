"""Print the options that spread tests over the cores; nothing where pytest-xdist is missing (the lent GPU machine)."""

import importlib.util

SPREAD = ("-n", "auto", "--maxprocesses", "8", "--dist", "worksteal")


def spread() -> tuple[str, ...]:
    """Return the options for pytest."""
    return SPREAD if importlib.util.find_spec("xdist") else ()


if __name__ == "__main__":
    print(*spread())
