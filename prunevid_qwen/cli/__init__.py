"""The command line: ``prunevid ask``, ``prunevid demo`` and demo.py. Importing it loads no torch."""

from prunevid_qwen.cli.app import main, run, run_script

__all__ = ["main", "run", "run_script"]
