"""From what `generate` returns to answers: results, log lines, streamers, conversations that go on."""
