"""A server of OpenAI's chat API: pruned answers in batches, within limits (``prunevid serve``)."""
