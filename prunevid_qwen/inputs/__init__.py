"""From files, messages and paths to what a model takes."""
