"""`make test` leaves out the nightly tests alone, ARGS has the last word, and no oracle of the core is nightly."""

from __future__ import annotations

import itertools
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORACLES = (
    "batch", "context", "keep_everything", "layers", "packaging", "positions", "pruning_equals_masking",
    "reference_cases", "refusals", "seams", "tokens",
)  # fmt: skip


def pytest_words(target: str, arguments: str = "") -> list[str]:
    """What `make` would give to pytest."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    made = [word for stamp in ("base", "dev") for word in ("-o", f".venv/{stamp}.stamp")]  # as if they were up to date
    words = ["make", "-n", "-s", *made, target, f"ARGS={arguments}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if "-m pytest" in line]
    return shlex.split(line)[3:]


def option(words: list[str], name: str) -> str | None:
    """The value that pytest takes: the last one."""
    return next((after for word, after in reversed(list(itertools.pairwise(words))) if word == name), None)


def test_nightly_tests_are_for_test_all() -> None:
    assert option(pytest_words("test"), "-m") == "not nightly"
    assert option(pytest_words("test-all"), "-m") is None


@pytest.mark.parametrize(("name", "value"), [("-m", "gpu"), ("-n", "0")])
def test_arguments_have_the_last_word(name: str, value: str) -> None:
    assert option(pytest_words("test", f"{name} {value}"), name) == value


@pytest.mark.parametrize("name", ORACLES)
def test_no_oracle_of_the_core_is_nightly(name: str) -> None:
    assert "nightly" not in (ROOT / "tests" / f"test_{name}.py").read_text(encoding="utf-8")
