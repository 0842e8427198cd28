"""The accuracy benchmark: every method at equal cost, on generated videos of moving shapes whose answers are known."""
