"""The engine that a command line asks for: this machine's, or a Ray cluster's, joined for as long as it is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from prunevid_qwen.errors import ConfigError, quoted

ENGINES = ("local", "ray")


def check_engine(engine: str, workers: int | None, ray_address: str | None, replicas: int | None) -> int | None:
    """Check what belongs to an engine; return how many processes read ahead, None for as many as a cluster has CPUs.

    Raises:
        ConfigError: an unknown engine, or options of the other one.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine is one of {', '.join(ENGINES)}; got {quoted(engine)}")
    if engine != "ray" and (ray_address or replicas):
        raise ConfigError("--ray_address and --replicas are for --engine ray")
    if engine == "ray" and workers == 0:
        raise ConfigError("--workers 0 reads in a thread of this process, which --engine ray cannot: pass 1 or more")
    if engine == "local" and workers is None:
        return max(1, min(4, (os.cpu_count() or 2) - 1))
    return workers


def shard_of(text: str) -> tuple[int, int]:
    """Read ``I/N``: which share of a run, of how many."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise ConfigError(f"shard is I/N with I from 0 to N - 1, such as 0/2 and 1/2; got {quoted(text)}")
    return int(number), int(count)


@contextmanager
def engine_of(
    engine: str,
    workers: int | None,
    ray_address: str | None,
    replicas: int | None,
    device: str | None,
    verbose: bool,
    tell: Callable[[str, int, int], None],
) -> Iterator[tuple[Any, str]]:
    """Yield the engine and the device that answers, which is part of a run's identity.

    Args:
        engine, workers, ray_address, replicas: as `check_engine` leaves them.
        device: that was asked for, or None.
        verbose: show a cluster's log.
        tell: told that a cluster starts.
    """
    if engine == "local":
        from prunevid_qwen.evaluation.engine.local import here
        from prunevid_qwen.loading import choose_device

        yield here(workers or 0), choose_device(device)
        return
    from prunevid_qwen.evaluation.engine.ray_cluster import joined

    tell("starting Ray", 0, 1)
    with joined(ray_address, verbose) as cluster:  # which says what to install where there is no Ray
        from prunevid_qwen.evaluation.engine.ray_data import run_on_ray

        tell("starting Ray", 1, 1)
        yield partial(run_on_ray, replicas=replicas, readers=workers, verbose=verbose), cluster.device(device)
