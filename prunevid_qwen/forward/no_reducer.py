"""What stands where a step wants a reducer, in words."""

from __future__ import annotations

from typing import Any

from prunevid_qwen.reducer import reducer_class, registered_as


def no_reducer(by: Any) -> str:
    """Describe a value that is no reducer, with the next step if it is a method's class or its options."""
    if isinstance(by, type) and hasattr(by, "plan"):
        return f"the class {by.__name__}: pass an instance, {by.__name__}(...)"
    known = registered_as(by if isinstance(by, type) else type(by))
    if known is None:
        return f"the class {by.__name__}" if isinstance(by, type) else f"a {type(by).__name__}"
    method = reducer_class(known[1], known[0]).__name__
    options = by.__name__ if isinstance(by, type) else type(by).__name__
    return f"{options}, the options of {known[1]!r}: pass its reducer, {method}(...)"
