"""Tuning a budget without labels: the smallest at which the pruned model answers as the unpruned one does."""
