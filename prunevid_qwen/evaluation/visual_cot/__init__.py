"""``prunevid eval visual-cot``: questions about single images, answered with and without pruning, then scored.

`records` reads the files, `images` finds the pictures and says what is missing, `configs` says who competes,
`identity` what two runs must share. `answering` keeps every raw answer in the run's `folder`; `judge` and `judging`
mark stored answers through an OpenAI-compatible endpoint, `scoring` does it by comparing strings; `summary` counts,
`report` shows. `run` is all of it in order. Answers can be judged again, by another judge, on another day.
"""
