"""How long a test waits for another process or thread: a bound against hangs alone, which nothing is to come near."""

PATIENCE = 240  # seconds, below pytest's own limit for a test, so that the test can say what it waited for
