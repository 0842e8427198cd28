"""The training that made the bundled model, from nothing: ``python -m research.bundled_model``."""
