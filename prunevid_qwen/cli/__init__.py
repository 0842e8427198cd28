"""The command line: ``prunevid ask``, ``prunevid demo`` and demo.py. Importing it loads no torch."""

from prunevid_qwen.cli.app import main, run

__all__ = ["main", "run"]
