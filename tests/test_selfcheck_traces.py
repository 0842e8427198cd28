"""The self-check leaves everything as it found it, wherever it runs."""

from __future__ import annotations

import logging
import random
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from prunevid_qwen.adapters import library_agrees
from prunevid_qwen.errors import SetupError
from prunevid_qwen.forward import hooks
from prunevid_qwen.forward.hooks import attached, self_check
from prunevid_qwen.forward.selfcheck import canary, checks
from tests.models import tiny_model
from tests.patience import PATIENCE
from tests.untested_release import FAMILY, UNTESTED, enter, untested

__all__ = ["untested"]

# ---- what it leaves


def around() -> dict[str, Any]:
    """Everything that has to be as it was."""
    there: list[int] = []
    thread = threading.Thread(target=lambda: there.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    log = logging.getLogger("transformers")
    return {
        "torch's random state": torch.get_rng_state().tolist(),
        "numpy's": [np.asarray(part).tolist() for part in np.random.get_state()[1:]],
        "python's": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "threads of another thread": there,
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "log": (log.level, list(log.handlers), list(log.filters), transformers.utils.logging.get_verbosity()),
    }


@pytest.fixture
def hostile() -> Iterator[None]:
    """A caller who has set all that can be set."""
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(torch.set_num_threads, threads)
        stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
        stack.callback(torch.set_default_device, None)
        torch.set_default_dtype(torch.bfloat16)
        torch.set_num_threads(threads + 1)
        torch.use_deterministic_algorithms(True)
        torch.set_default_device("meta")
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("fails", [False, True], ids=["passes", "fails"])
def test_everything_is_left_as_found(
    monkeypatch: pytest.MonkeyPatch, hostile: None, untested: Path, fails: bool
) -> None:
    def untouched(*_given: Any) -> None:
        raise AssertionError("this seeds every GPU too")

    def draws(*given: Any) -> Any:
        warnings.warn("of the tiny model", stacklevel=1)
        random.random(), np.random.random(), torch.rand(3, device="cpu")
        return tiny(*given)

    tiny = checks.tiny_model
    monkeypatch.setattr(torch, "manual_seed", untouched)
    monkeypatch.setattr(checks, "tiny_model", draws)
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    if fails:
        monkeypatch.setattr(checks, "tiny_inputs", lambda *_given, **_named: {}["input_ids"])
    before = around()
    with pytest.raises(SetupError) if fails else nullcontext():
        canary.ensure_checked(FAMILY, attached)
    after = around()
    assert [what for what in before if before[what] != after[what]] == []
    assert untested.exists() is not fails


@pytest.mark.parametrize(
    "inside",
    [torch.no_grad, torch.enable_grad, lambda: torch.device("meta"), lambda: torch.device("cuda")],
    ids=["no_grad", "enable_grad", "meta", "cuda"],
)
def test_it_works_inside(monkeypatch: pytest.MonkeyPatch, inside: Any) -> None:
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    model = tiny_model()
    with inside():
        enter(model)
        library_agrees.__wrapped__(UNTESTED)  # the other question asked of a release, past its memory


def test_without_a_kernel_for_sdpa_the_check_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """As inside `sdpa_kernel(SDPBackend.CUDNN_ATTENTION)`, whose switches are the CPU's too."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    assert checks.attentions() == ("eager", "sdpa")
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        assert checks.attentions() == ("eager",)
        assert self_check(FAMILY).ok


def test_an_interrupt_waits_until_all_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from prunevid_qwen.forward.selfcheck import aside as module

    entered, leave = threading.Event(), threading.Event()
    done = []
    join = threading.Thread.join
    joins = []

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        joins.append(thread)
        if len(joins) == 1:
            assert entered.wait(PATIENCE)
            leave.set()
            raise KeyboardInterrupt
        join(thread, timeout)

    def work() -> None:
        entered.set()
        assert leave.wait(PATIENCE)
        done.append(True)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.aside(work)
    assert done and not joins[0].is_alive()


def test_the_hooks_of_the_check_ask_no_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a check would wait for itself."""
    monkeypatch.setattr(hooks, "ensure_checked", lambda *_given: pytest.fail("the check asked for a check"))
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    assert self_check(FAMILY).ok
