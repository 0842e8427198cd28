"""The phases that the second toy went through, in order."""

from __future__ import annotations

from research.bundled_model.phases import VisionPhase

PHASES = (VisionPhase("vision", steps=2400, clutter_share=0.25),)
"""The schedule that made the shipped weights."""
