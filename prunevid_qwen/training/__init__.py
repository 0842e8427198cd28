"""How the bundled model came to be: its tokenizer, its training on synthetic videos, and its export."""
