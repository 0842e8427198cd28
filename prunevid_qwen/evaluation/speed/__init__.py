"""``prunevid bench speed``: what pruning costs and saves in time, memory and FLOPs, beside the stock model."""
