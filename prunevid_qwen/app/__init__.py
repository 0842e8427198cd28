"""A page for a browser: a pruned answer beside the unpruned one, and which tokens were kept (``prunevid app``)."""
