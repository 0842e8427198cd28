"""What is true of each registered method: for `prunevid methods` and the tables of the documentation."""

from __future__ import annotations

import re
from typing import Any

from prunevid_qwen.config.option_classes import STAGES, classes_of, names_in
from prunevid_qwen.reducer import made_by, needs_of, says

_EVIDENCE = {
    "attention": "the question's attention", "question": "the question's states", "vision": "the vision tower",
    "probe": "tokens sent along", "marks": "the caller's marks", "keys": "keys",
    "angles": "rotary angles",
}  # fmt: skip


def method_rows() -> list[dict[str, Any]]:
    """Return what is true of each registered method.

    Returns:
        Of each ``name``, ``stage`` (1 merges before the decoder, 2 selects inside it), ``paper`` ("arXiv 2412.16117",
        "" without one), ``ours`` (it is a method of this package), ``needs`` (what it looks at beyond the tokens'
        states), ``trained``, ``budget`` (the option that spends it), ``options`` (all of its own) and ``says`` (the
        first sentence of its options' docstring).
    """
    rows = []
    for part, stage in STAGES.items():
        for name, cls in classes_of(part).items():
            said = " ".join((cls.__doc__ or "").split())
            options, paper = cls(), re.search(r"arXiv \d{4}\.\d{4,5}", said)
            own, needs = says(options, stage), needs_of(made_by(options, stage))
            under = "".join(f" ({each}={str(value).lower()})" for each, value in own.lever_needs.items())
            rows.append({
                "name": name, "stage": stage, "paper": paper[0] if paper else "",
                "ours": own.ours,
                "needs": [text for field, text in _EVIDENCE.items() if getattr(needs, field, None)],
                "trained": own.trained, "budget": (own.lever or "") + under, "options": list(names_in(cls)),
                "says": re.split(r"(?<=[a-z)])\.(?: |$)", said)[0],
            })  # fmt: skip
    return rows
