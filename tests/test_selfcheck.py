"""The canary: a release that nobody tested shows on a tiny model that pruning works, once, or is refused by name."""

from __future__ import annotations

import json
import logging
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from prunevid_qwen.adapters import families, library_agrees, seams
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import SetupError
from prunevid_qwen.forward import hooks
from prunevid_qwen.forward.hooks import attached, pruned, self_check
from prunevid_qwen.forward.run import Run
from prunevid_qwen.forward.selfcheck import canary, checks, verdicts
from prunevid_qwen.forward.selfcheck.checks import Check, SelfCheck
from prunevid_qwen.forward.selfcheck.oracle import units_apart
from prunevid_qwen.version import TESTED
from tests.models import tiny_model
from tests.patience import PATIENCE
from tests.test_pruning_equals_masking import TINY

UNTESTED, FAMILY = "5.99.0", "qwen2_5_vl"
CONFIG = PruneVidConfig(**TINY)
Pretend = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def untested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The installed release gets a version that nobody tested; the process knows nothing yet; the cache is empty."""
    monkeypatch.setattr(seams, "transformers_release", lambda: UNTESTED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    new_process(monkeypatch)
    yield tmp_path / "cache" / "prunevid_qwen"


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "_known", {})
    verdicts._say_once.cache_clear()


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Replace the check by one with a given end; returns the families that it was asked about."""

    def replace(ok: bool = True, error: Exception | None = None) -> list[str]:
        asked: list[str] = []

        def check(family: str, _attach: Any) -> SelfCheck:
            asked.append(family)
            return SelfCheck(family, UNTESTED, "2.99.0", (Check("as pretended", ok, {"figure": 7.0}, 0.1, error),))

        monkeypatch.setattr(canary, "self_check", check)
        return asked

    return replace


def enter(model: Any = None) -> None:
    with pruned(tiny_model() if model is None else model, CONFIG):
        pass


# ---- what is checked


@pytest.mark.parametrize("family", families())
def test_the_installed_release_passes(family: str) -> None:
    found = self_check(family)
    assert [str(check) for check in found.failed] == []
    assert (found.ok, found.family, found.transformers, found.torch) == (True, family, UNTESTED, torch.__version__)
    names = [check.name for check in found.checks]
    assert len(set(names)) == len(names) == 2 * (3 + 2 * len(checks.STAGES))  # eager and sdpa
    assert all(check.seconds > 0 and check.figures and check.error is None for check in found.checks)
    exact = [check for check in found.checks if check.name.startswith("keep everything")]
    assert [check.figures["units in the last place"] for check in exact] == [0, 0]


def no_more_hooks(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Any]) -> None:
    """As a layer that a release runs without `__call__`."""
    monkeypatch.setattr(kinds["layer"], "__call__", lambda self, *args, **kwargs: self.forward(*args, **kwargs))


def another_name_for_the_cache(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Any]) -> None:
    """As 5.24 did: the keyword that the decoder's door sees is another one."""
    decoder, names = kinds["decoder"], ("cache", "past_key_values")
    call, forward = decoder.__call__, decoder.forward

    def renamed(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, **{f"memory_{k}" if k in names else k: value for k, value in kwargs.items()})

    def back(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **{k.removeprefix("memory_"): value for k, value in kwargs.items()})

    monkeypatch.setattr(decoder, "__call__", renamed)
    monkeypatch.setattr(decoder, "forward", back)


def a_mask_that_is_ignored(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Any]) -> None:
    """Single tokens see all of the cache anyway; here every row does."""
    forward = kinds["attention"].forward

    def blind(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **{**kwargs, "attention_mask": None})

    monkeypatch.setattr(kinds["attention"], "forward", blind)


def angles_of_other_places(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Any]) -> None:
    """As a layer that makes its own angles again, from what it holds instead of from what it is given."""
    forward = kinds["layer"].forward

    def own(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        cos, sin = kwargs["position_embeddings"]
        if hidden_states.shape[1] > 1:
            cos, sin = cos.roll(1, dims=-2), sin.roll(1, dims=-2)
        return forward(self, hidden_states, *args, **{**kwargs, "position_embeddings": (cos, sin)})

    monkeypatch.setattr(kinds["layer"], "forward", own)


def a_mask_function_that_moved(monkeypatch: pytest.MonkeyPatch, _kinds: dict[str, Any]) -> None:
    def moved(config: Any, states: Any, mask: Any, memory: Any) -> Any:
        raise AssertionError("nobody knows these names")

    monkeypatch.setattr("transformers.masking_utils.create_causal_mask", moved)


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (no_more_hooks, "PruningNotApplied"),
        (another_name_for_the_cache, None),
        (a_mask_that_is_ignored, None),
        (angles_of_other_places, None),
        (a_mask_function_that_moved, "SetupError"),
    ],
)
def test_a_library_that_moved_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, untested: Path, broken: Callable[..., None], kind: str | None
) -> None:
    model = tiny_model("eager")
    layer = model.model.language_model.layers[0]
    kinds = {"decoder": type(model.model.language_model), "layer": type(layer), "attention": type(layer.self_attn)}
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    with monkeypatch.context() as patch:
        broken(patch, kinds)
        with pytest.raises(SetupError, match=UNTESTED) as raised:
            enter()
    said = str(raised.value)
    assert said.count(f"pip install 'transformers=={TESTED[-1]}'") == 1, "the next step, once"
    assert any(point in said for point in ("masking", "keep everything", "forward", "counts"))
    if kind is not None:
        assert type(raised.value.__cause__).__name__ == kind and kind in said
    assert not untested.exists()


def test_what_was_asked_and_did_not_happen_shows_in_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits alone would not tell: a prompt that was not merged equals the masking of nothing."""
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    monkeypatch.setattr(Run, "_merge", lambda *_given: None)
    wrong = {check.name: check for check in self_check(FAMILY).failed}
    counts = {name for name in wrong if name.startswith("counts")}
    assert counts == {f"counts of {stages}, eager" for stages in checks.STAGES if stages != "stages 2 and 3"}
    assert not any("masking" in name for name in wrong)
    assert all(wrong[name].figures["got"] != wrong[name].figures["asked"] for name in counts)


def test_two_cuts_are_proved_apart_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode steps whose last layers are given what those between the cuts are given: of one cut there are none."""
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    stock = Run.before_later_layer

    def first_of_all(self: Run, *given: Any) -> Any:
        late, self.late = self.late, self.late[:1]
        try:
            return stock(self, *given)
        finally:
            self.late = late

    monkeypatch.setattr(Run, "before_later_layer", first_of_all)
    wrong = [check.name for check in self_check(FAMILY).failed]
    assert wrong and all(checks.TWO_CUTS in name for name in wrong)


def test_a_model_that_cannot_be_built_is_a_finding_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "tiny_model", lambda *_given: {}["text_config"])
    found = self_check(FAMILY)
    assert [type(check.error) for check in found.checks] == [KeyError, KeyError] and not found.ok


def test_what_cannot_repeat_itself_to_the_bit_is_held_to_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose stock model differs from itself by a unit is no reason to refuse a release; one by a share is."""
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    generate = checks._Subject._generate
    for size, ok in ((2.0**-23, True), (2.0**-8, False)):
        calls: list[None] = []

        def noisy(subject: Any, size: float = size, calls: list[None] = calls) -> Any:
            calls.append(None)
            out = generate(subject)
            out.logits = tuple(one * (1 + size * len(calls)) for one in out.logits)
            return out

        monkeypatch.setattr(checks._Subject, "_generate", noisy)
        found = next(check for check in self_check(FAMILY).checks if check.name.startswith("keep everything"))
        assert (found.ok, found.figures["allowed"]) == (ok, checks.UNITS)


def test_units_are_those_of_fp32_at_the_largest_number() -> None:
    wanted = torch.tensor([3.0, -0.001], dtype=torch.float64)  # between 2 and 4 neighbours are 2^-22 apart
    assert units_apart(wanted, wanted) == 0
    assert units_apart(wanted + 2.0**-21, wanted) == 2
    assert units_apart(torch.tensor([3.0, float("nan")]), wanted) == float("inf")
    assert units_apart(wanted, wanted * float("inf")) == float("inf")


# ---- when it is asked


@pytest.mark.parametrize("release", TESTED)
def test_a_tested_release_is_never_checked(monkeypatch: pytest.MonkeyPatch, pretend: Pretend, release: str) -> None:
    asked = pretend(ok=False)
    monkeypatch.setattr(seams, "transformers_release", lambda: release)
    enter()
    assert asked == []


def test_a_release_between_tested_ones_is(monkeypatch: pytest.MonkeyPatch, pretend: Pretend) -> None:
    asked = pretend()
    monkeypatch.setattr(seams, "transformers_release", lambda: "5.6.3")
    enter()
    assert asked == [FAMILY]


def test_once_a_process_and_family_and_once_in_all(
    monkeypatch: pytest.MonkeyPatch, pretend: Pretend, untested: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = pretend()
    with caplog.at_level(logging.INFO, logger="prunevid_qwen"):
        for _ in range(3):
            enter()
        enter(tiny_model(family="qwen2_vl"))
        new_process(monkeypatch)
        enter()
    assert asked == [FAMILY, "qwen2_vl"]
    lines = [record for record in caplog.records if UNTESTED in record.getMessage() and "self-check" in record.msg]
    assert [record.levelno for record in lines] == [logging.INFO, logging.INFO]
    assert all(family in record.getMessage() for family, record in zip(asked, lines, strict=True))
    held = [json.loads(path.read_text()) for path in untested.iterdir()]
    assert sorted(one["key"]["family"] for one in held) == asked and all(one["passed"] for one in held)


def test_what_changes_the_answer_changes_the_key(monkeypatch: pytest.MonkeyPatch, pretend: Pretend) -> None:
    asked = pretend()
    enter()
    changes = {
        "torch": lambda: monkeypatch.setattr(torch, "__version__", "2.99.0"),
        "transformers": lambda: monkeypatch.setattr(seams, "transformers_release", lambda: "5.98.0"),
        "code": lambda: monkeypatch.setattr(canary, "code_fingerprint", lambda: "another"),
        "attention": lambda: monkeypatch.setattr(canary, "attentions", lambda: ("eager",)),
    }
    for number, change in enumerate(changes.values(), start=2):
        change()
        new_process(monkeypatch)
        enter()
        assert len(asked) == number


def test_the_code_fingerprint_reads_what_pruning_uses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verdicts, "PACKAGE", tmp_path)
    seen = []
    for name, text in [("run.py", "1"), ("run.py", "2"), ("cli/app.py", "3"), ("stage1_merge/rlt.py", "4")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.append(verdicts.code_fingerprint.__wrapped__())
    assert len(set(seen)) == 3 and seen[1] == seen[2]


@pytest.mark.parametrize("release", ["5.99.0.dev0", "5.99.0+local"])
def test_what_moves_under_one_name_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch, pretend: Pretend, untested: Path, release: str
) -> None:
    asked = pretend()
    monkeypatch.setattr(seams, "transformers_release", lambda: release)
    for _ in range(2):
        new_process(monkeypatch)
        enter()
    assert len(asked) == 2 and not untested.exists()


def test_a_failure_is_raised_again_and_checked_again_by_the_next_process(
    monkeypatch: pytest.MonkeyPatch, pretend: Pretend, untested: Path
) -> None:
    asked = pretend(ok=False, error=KeyError("moved"))
    for _ in range(2):
        with pytest.raises(SetupError, match="as pretended") as raised:
            enter()
        assert isinstance(raised.value.__cause__, KeyError)
    assert len(asked) == 1 and not untested.exists()
    new_process(monkeypatch)
    mended = pretend()
    enter()
    assert len(mended) == 1


@pytest.mark.parametrize(
    "held", ["", "{", "[1]", '"passed"', '{"passed": true}', '{"passed": false, "key": {}}', b"\xff\xfe"]
)
def test_a_broken_file_is_as_none(
    monkeypatch: pytest.MonkeyPatch, pretend: Pretend, untested: Path, held: str | bytes
) -> None:
    asked = pretend()
    enter()
    (path,) = untested.iterdir()
    whole = path.read_bytes()
    path.write_bytes(held if isinstance(held, bytes) else held.encode())
    new_process(monkeypatch)
    enter()
    assert len(asked) == 2 and path.read_bytes() == whole and list(untested.iterdir()) == [path]


@pytest.mark.parametrize("where", ["a file", "no home", "replace"])
def test_a_folder_that_cannot_be_written_is_said_once(
    monkeypatch: pytest.MonkeyPatch, pretend: Pretend, untested: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    asked = pretend()
    if where == "a file":  # permissions do not stop root
        untested.parent.write_text("")
    elif where == "replace":
        monkeypatch.setattr(verdicts.os, "replace", refuse)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", refuse_home)
    with caplog.at_level(logging.INFO, logger="prunevid_qwen"):
        enter()
        enter(tiny_model(family="qwen2_vl"))
        monkeypatch.setattr(canary, "_known", {})
        enter()
    assert len(asked) == 3
    said = [record for record in caplog.records if record.levelno == logging.WARNING and "XDG" in record.msg]
    assert len(said) == 1
    if where == "replace":
        assert list(untested.iterdir()) == []


def refuse(*_given: Any) -> None:
    raise PermissionError("read-only")


def refuse_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    home = tmp_path / ".cache" / "prunevid_qwen"
    for value, wanted in ((str(tmp_path / "x"), tmp_path / "x" / "prunevid_qwen"), ("relative", home), ("", home)):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert verdicts.folder() == wanted


def test_not_inside_a_compiled_region(monkeypatch: pytest.MonkeyPatch, pretend: Pretend) -> None:
    asked = pretend()
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        enter()
        assert asked == []
    enter()
    assert asked == [FAMILY]


def test_two_threads_check_once(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, go, asked = threading.Semaphore(0), threading.Event(), []
    lock = threading.Lock()

    class Watched:
        def __enter__(self) -> None:
            arrived.release()
            lock.acquire()

        def __exit__(self, *_error: Any) -> None:
            lock.release()

    def check(family: str, _attach: Any) -> SelfCheck:
        asked.append(family)
        assert go.wait(PATIENCE)
        return SelfCheck(family, UNTESTED, "", (Check("as pretended", True),))

    monkeypatch.setattr(canary, "_lock", Watched())
    monkeypatch.setattr(canary, "self_check", check)
    threads = [threading.Thread(target=canary.ensure_checked, args=(FAMILY, attached)) for _ in range(2)]
    for thread in threads:
        thread.start()
    both = arrived.acquire(timeout=PATIENCE) and arrived.acquire(timeout=PATIENCE)
    go.set()
    for thread in threads:
        thread.join()
    assert both and asked == [FAMILY]


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
