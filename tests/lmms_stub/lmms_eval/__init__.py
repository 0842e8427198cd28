"""What lmms-eval 0.7.3 is to `prunevid eval lmms`: it reads ``--config`` and leaves results. It loads no model."""
