"""One pruned forward of a stock model: hooks, the prompt, what each step decides, and what leaves it. `hooks` hooks."""
