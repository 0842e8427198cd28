"""The sentence that a class says of each of its options, for help and for controls."""

from __future__ import annotations

import inspect
import re


def field_help(cls: type) -> dict[str, str]:
    """Return the sentence that a class docstring's ``Args:`` section, or its parents', says of each name."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        section = inspect.cleandoc(each.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE)
        found |= {name: " ".join(text.split()) for name, text in entries}
    return found
