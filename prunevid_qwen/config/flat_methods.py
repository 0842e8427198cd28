"""Options of methods that were written for the flat config and have none of their own. Imports no torch."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from prunevid_qwen.config.flat import FLAT, MERGER, SELECTOR, option_types
from prunevid_qwen.config.method_base import MethodOptions


class FlatMethodOptions(MethodOptions):
    """Base of the options that `flat_options_of` makes: all flat ones of a stage, as 3a0e2fd passed them."""

    every_flat_option: ClassVar[bool] = True


def flat_options_of(part: str, name: str) -> type:
    """Make an options class with every flat option of a stage.

    Args:
        part: "merger" or "selector".
        name: of the method's class.
    """
    names = (*(MERGER if part == "merger" else SELECTOR), "random_seed")
    types = option_types()
    fields = [(each, types[each], dataclasses.field(default=FLAT[each])) for each in names if each != "pruning_layer"]
    if part == "selector":
        fields.append(("layers", object, dataclasses.field(default=None)))
    return dataclasses.make_dataclass(f"{name}Options", fields, bases=(FlatMethodOptions,), frozen=True)
