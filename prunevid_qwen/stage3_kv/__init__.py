"""Stage 3: a cache that may be shorter than the text it stands for. Re-exports nothing that loads transformers."""
