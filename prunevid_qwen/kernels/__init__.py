"""Kernels: in each file a `reference()` (the law) and the fast path of the same signature."""
