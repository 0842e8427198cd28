"""GlimpsePrune+: the model learns by reinforcement to answer from the boxes alone, then its glimpse is trained anew."""
