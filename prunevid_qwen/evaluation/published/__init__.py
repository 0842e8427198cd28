"""Published tables, run anew: their figures as theirs, the setting as far as it is known, ours beside it."""
