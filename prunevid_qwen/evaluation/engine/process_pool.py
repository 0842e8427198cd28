"""Worker processes of a run: started, replaced and ended so that no signal and no death of one stops the rest."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from prunevid_qwen.config.plugins import load_plugin
from prunevid_qwen.processes.interruption import leave_signals_to_parent, starting_processes

Plugins = tuple[str, ...]
"""Files and modules that register methods, as `load_plugin` takes them."""


def start_pool(count: int, plugins: Plugins = ()) -> ProcessPoolExecutor:
    """Start processes of one thread each; plug-ins are there before anything arrives that their methods are in."""
    with starting_processes():  # spawned: a fork of a process with torch's threads in it can hang
        return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (plugins,))


def submit(pool: ProcessPoolExecutor, do: Callable[..., Any], *given: Any) -> Future[Any]:
    """Have a process do something; a pool that is broken says so in the future."""
    try:
        with starting_processes():
            return pool.submit(do, *given)
    except BrokenProcessPool as broken:  # it broke since the last result was taken
        failed: Future[Any] = Future()
        failed.set_exception(broken)
        return failed


def end_pool(pool: ProcessPoolExecutor) -> None:
    """End a pool whatever its processes are at: reading a video takes minutes, and hangs where its decoder does."""
    processes = list((getattr(pool, "_processes", None) or {}).values())  # which `shutdown` forgets
    results = getattr(pool, "_result_queue", None)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()  # one that still starts would hold SIGTERM back
    if results is not None:
        results._writer.close()  # else whoever takes results waits for the rest of one that was cut off


@functools.cache
def load_once(plugins: Plugins) -> None:
    """Load plug-ins in a process that works for another one; a second call does nothing."""
    for source in plugins:
        load_plugin(source)


def _begin(plugins: Plugins) -> None:
    import torch

    leave_signals_to_parent(terminable=True)  # and not outlive it
    torch.set_num_threads(1)
    load_once(plugins)
