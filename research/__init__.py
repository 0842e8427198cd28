"""What the project found out and how: in the repository, not in the wheel. Run each as ``python -m research.NAME``.

- ``choices_run``: every option's values at equal cost, for docs/choices.md
  (``make bench-choices``)
- ``glimpse_run``: the glimpse beside attention, controls and true boxes, for docs/glimpse.md
  (``make bench-glimpse``)
- ``bundled_accuracy``: how often the bundled model is right on held-out videos
- ``stage1_speed``, ``long_video``: stage 1 beside the passes it cannot avoid; an hour of video (``make bench-long``)
- ``bundled_model``, ``bundled_model.clips``: the training that made the shipped model, and the shipped clips
- ``pages``: fills the generated tables of README and docs/ (``python tools/fill_pages.py``)

Nothing in ``prunevid_qwen`` imports from here.
"""
