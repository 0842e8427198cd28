"""A question about a video, answered with pruned tokens: ``python demo.py --help``. Thin: see prunevid_qwen/cli."""

import sys

from prunevid_qwen.cli import main

if __name__ == "__main__":
    sys.exit(main(program="demo.py"))
