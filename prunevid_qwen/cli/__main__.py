"""``python -m prunevid_qwen.cli`` is ``prunevid``, for an interpreter whose scripts are not on the path."""

from prunevid_qwen.cli.app import run

if __name__ == "__main__":
    run()
