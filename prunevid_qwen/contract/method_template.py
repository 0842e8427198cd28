"""A file with a method that keeps the contract, to begin one's own with."""

from __future__ import annotations

import keyword
import re

from prunevid_qwen.config.option_classes import classes_of
from prunevid_qwen.errors import ConfigError, quoted

_SELECTOR = '''"""Selector "{name}": keeps equally spaced tokens of each video and image. `plan` is yours to change."""

from dataclasses import dataclass

import torch

from prunevid_qwen import Evidence, Needs, TokenMap, register


@dataclass(frozen=True)
class {cls}Options:
    keep_ratio: float = 0.5  # share kept of each video and image, in (0, 1]
    layers: tuple[int | float, ...] | None = None  # before which decoder layer; None: the depth's default


@register("{name}", {cls}Options)
@dataclass(frozen=True)
class {cls}({cls}Options):
    needs = Needs()  # what `plan` reads beyond the tokens' states: Needs(AttentionQuery()) for seen.attention

    def plan(self, seen: Evidence) -> TokenMap:
        kept = []
        for block in seen.layout.blocks:  # each video and image for itself, and at least one token of it
            size = block.stop - block.start
            count = max(1, int(size * self.keep_ratio))
            kept.append(block.start + torch.arange(count) * size // count)
        return TokenMap.keep(torch.cat(kept).to(seen.hidden.device), seen.hidden.shape[0])
'''
_MERGER = '''"""Merger "{name}": neighbouring tokens of each video become their mean. `plan` is yours to change."""

from dataclasses import dataclass

import torch

from prunevid_qwen import Evidence, Needs, TokenMap, register


@dataclass(frozen=True)
class {cls}Options:
    cluster_ratio: float = 0.5  # share left of each video, in (0, 1]


@register("{name}", {cls}Options, stage=1)
@dataclass(frozen=True)
class {cls}({cls}Options):
    needs = Needs()  # what `plan` reads beyond the tokens' states

    def why_unchanged(self, blocks) -> str | None:
        sizes = [block.stop - block.start for block in blocks if block.kind == "video"]
        merges = any(size > 1 and int(size * self.cluster_ratio) < size for size in sizes)
        return None if merges else "its share leaves every token"  # None: then `plan` has to change something

    def plan(self, seen: Evidence) -> TokenMap:
        group, first, made = [], [], 0  # to which new token each goes; whose position each new one takes
        for block in seen.layout.blocks:
            size = block.stop - block.start
            count = max(1, int(size * self.cluster_ratio)) if block.kind == "video" else size
            group.append(made + torch.arange(size) * count // size)
            first.append(block.start + (torch.arange(count) * size + count - 1) // count)
            made += count
        return TokenMap(torch.cat(group).to(seen.hidden.device), torch.cat(first).to(seen.hidden.device))
'''


def method_file(name: str, merger: bool = False) -> tuple[str, str]:
    """Return the name of the class, and the text of a file that registers a method.

    Args:
        name: what configs and command lines will call it: small letters, digits and _.
        merger: of stage 1, before the decoder; else a selector inside it.

    Raises:
        ConfigError: it is no such name, or is taken.
    """
    part = "merger" if merger else "selector"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ConfigError(f"a method's name is small letters, digits and _, a letter first; got {quoted(name)}")
    if name in classes_of(part):
        raise ConfigError(f"{part} {quoted(name)} is there already: choose another name (prunevid methods lists all)")
    cls = "".join(each.capitalize() for each in name.split("_"))
    return cls, (_MERGER if merger else _SELECTOR).format(name=name, cls=cls)
