"""The training that made the bundled model of Qwen3-VL's architecture: ``python -m research.bundled_qwen3vl``."""
