"""Running something beside the caller's work, so that it finds a plain torch and leaves the caller's as it was."""

from __future__ import annotations

import logging
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import numpy as np
import torch

Result = TypeVar("Result")


def aside(work: Callable[[], Result]) -> Result:
    """Call ``work`` in a thread of its own, wait for it, and return or raise what it does.

    Gradient and inference mode, autocast, the default device, functorch and every torch function or dispatch mode
    belong to a thread: a fresh one has none of the caller's. What a process has once is put back: the default dtype
    (fp32 meanwhile), the number of threads that new threads compute with (one meanwhile: on models this small a second
    one only waits, for seconds where the machine is busy), the random states of torch's CPU generator, of numpy and of
    Python, the warnings' filters and the level of transformers' log. CUDA and the deterministic settings are not
    touched. Other threads of the process may see what is set meanwhile.

    An interrupt is raised when the work has ended, so that nothing is put back behind the caller's back.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with _as_found():
                results.append(work())
        except BaseException as error:  # carried over to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=run, name="prunevid_qwen self-check", daemon=True)
    thread.start()
    try:
        thread.join()
    finally:
        thread.join()
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def _as_found() -> Iterator[None]:
    log = logging.getLogger("transformers")
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(random.setstate, random.getstate())
        stack.callback(log.setLevel, log.level)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of the tiny model: the caller's own calls warn as the caller has set it
        log.setLevel(logging.ERROR)
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(1)
        yield
