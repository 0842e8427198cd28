"""Who competes: configs by name, and the unpruned baseline that reads its images as they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from prunevid_qwen.config import ALL_OFF, PruneVidConfig
from prunevid_qwen.errors import ConfigError

BASELINE = "baseline"

NamedConfigs = tuple[tuple[str, PruneVidConfig], ...]


def competitors(given: Sequence[tuple[str, PruneVidConfig]], with_baseline: bool = True) -> NamedConfigs:
    """Return the configs of a run, the baseline first.

    The baseline is the first other config with all stages off: as in ``prunevid ask --compare`` it reads and resizes
    images in the same way, whatever that config says of it, so that only pruning differs.

    Args:
        given: name and config of each; one called "baseline" only says that it is wanted.
        with_baseline: run it though nobody named it.

    Raises:
        ConfigError: nothing to run, or two of one name.
    """
    for name, count in Counter(name for name, _ in given).items():
        if count > 1:
            raise ConfigError(f"two configs are called {name!r}: their answers could not be told apart")
    others = tuple((name, config) for name, config in given if name != BASELINE)
    if not (with_baseline or len(others) < len(given)):
        if not others:
            raise ConfigError("no config to run: name one, or leave out --no_baseline")
        return others
    like = (others or tuple(given) or ((BASELINE, PruneVidConfig()),))[0][1]
    off = like.replace(**ALL_OFF)
    return ((BASELINE, off), *others)
