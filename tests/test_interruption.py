"""Ctrl-C, SIGTERM and a closed terminal end a command alike: its exit code says which, and no process is left."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.processes.interruption import Interrupted, between_steps, interruptible, interruption, signal_of
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
HANDLED = [signal.SIGTERM, signal.SIGHUP]
ONE_QUICK = [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.nightly)]  # a process for each


def send(number: int) -> None:
    """Send this process a signal, and let Python see to it."""
    signal.raise_signal(number)


# ---- in this process


@pytest.mark.parametrize("number", HANDLED)
def test_a_signal_is_raised_where_it_comes_and_a_second_does_not_cut_the_way_out(
    number: int, as_in_a_terminal: None
) -> None:
    left = []
    with pytest.raises(KeyboardInterrupt) as raised, interruptible():
        try:
            send(number)
        finally:
            for each in HANDLED:
                send(each)
            left.append("all of it")
    assert isinstance(raised.value, Interrupted) and raised.value.number == signal_of(raised.value) == number
    assert left == ["all of it"]
    assert [signal.getsignal(each) for each in HANDLED] == [signal.SIG_DFL] * 2


@pytest.mark.parametrize("number", ENDING)
def test_what_is_ignored_stays_ignored(number: int, as_in_a_terminal: None) -> None:
    signal.signal(number, signal.SIG_IGN)
    for block in (interruptible, between_steps):
        with block() as came:
            send(number)
            assert came is None or came() == 0
        assert signal.getsignal(number) == signal.SIG_IGN


def test_who_calls_keeps_a_handler_of_its_own(as_in_a_terminal: None) -> None:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    with interruptible():
        send(signal.SIGTERM)
    assert told == [signal.SIGTERM]


@pytest.mark.parametrize("number", ENDING)
def test_between_steps_a_signal_waits(number: int, as_in_a_terminal: None) -> None:
    with interruptible(), between_steps() as came:
        assert came() == 0
        send(number)
        assert came() == number
        if number != signal.SIGINT:  # `timeout` sends it twice
            send(number)
    with pytest.raises(KeyboardInterrupt), between_steps() as came:
        send(signal.SIGINT)
        send(signal.SIGINT)  # a person who does not want to wait
    assert came() == signal.SIGINT


def test_an_interruption_stands_for_its_signal() -> None:
    assert [signal_of(interruption(number)) for number in ENDING] == ENDING
    assert signal_of(interruption(0)) == signal.SIGINT


# ---- processes of their own

TERMINAL = """
import os, signal, sys
for each in {ignored}:
    signal.signal(each, signal.SIG_IGN)
for each, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, 0), (signal.SIGHUP, 0)):
    if each not in {ignored}:
        signal.signal(each, handler)
"""
ASKING = """
from prunevid_qwen.cli import ask, main
from prunevid_qwen.errors import ConfigError
def load(model, config, shown):
    print("ready", file=sys.stderr, flush=True)
    sys.stdin.readline()
    raise ConfigError("it went on")
ask.load = load
sys.exit(main(["ask", "--video_path", "setup.py", "--question", "q"]))
"""


def start(code: str, *words: str, ignored: tuple[int, ...] = (), **more: Any) -> subprocess.Popen[str]:
    given: dict[str, Any] = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")} | more
    begin = TERMINAL.format(ignored=[int(number) for number in ignored])
    return subprocess.Popen(
        [sys.executable, "-c", begin + code, *words], cwd=ROOT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **given,
    )  # fmt: skip


@pytest.mark.parametrize(
    "number", [signal.SIGINT, *(pytest.param(each, marks=pytest.mark.nightly) for each in HANDLED)]
)
def test_a_command_has_the_exit_code_of_its_signal(number: int) -> None:
    process = start(ASKING)
    assert process.stderr is not None and process.stderr.readline() == "ready\n"
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number and said.startswith("\ninterrupted") and len(said.split()) <= 3


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_command_in_the_background_goes_on(number: int) -> None:
    """SIGINT in a job that a script put there, SIGHUP under nohup."""
    process = start(ASKING, ignored=(number,))
    assert process.stderr is not None and process.stderr.readline() == "ready\n"
    os.kill(process.pid, number)
    _, said = process.communicate("\n", timeout=PATIENCE)
    assert process.returncode == 2 and "it went on" in said


def test_a_closed_terminal_ends_a_command_that_talks_on_it(tmp_path: Path) -> None:
    """The kernel sends SIGHUP, and what is said on the way out finds no terminal to be said on."""
    ours, theirs = os.openpty()
    code = """
import fcntl, termios, traceback
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from prunevid_qwen.cli import ask, main
def load(model, config, shown):
    try:
        open(sys.argv[1], "w").close()  # waits for who reads
        signal.pause()
    finally:
        for each in (sys.stdout, sys.stderr):
            print("on the way out", file=each, flush=True)
ask.load = load
code = 1
try:
    code = main(["ask", "--video_path", "setup.py", "--question", "q"])
finally:
    with open(sys.argv[2], "w") as file:
        file.write(f"{code} {traceback.format_exc()}")
os._exit(code)
"""
    note = tmp_path / "note"
    os.mkfifo(tmp_path / "ready")
    process = start(
        code, str(tmp_path / "ready"), str(note), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    (tmp_path / "ready").read_bytes()
    os.close(ours)
    assert process.wait(PATIENCE) == 129, note.read_text()


WORKING = """
import os, signal, sys
from prunevid_qwen.cli import run_script
from prunevid_qwen.evaluation.shapes.accuracy import each
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun

def wait(run, path):
    with open(path, "w") as file:
        file.write(f"{os.getpid()}\\n")
    signal.pause()

def work(one: str, two: str):
    list(each(AccuracyRun(()), 2, wait, [(one,), (two,)]))

if __name__ == "__main__":
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, 0), (signal.SIGHUP, 0)):
        signal.signal(number, handler)
    run_script(work)
"""


@pytest.mark.nightly
def test_workers_of_the_accuracy_benchmark_end_with_it(tmp_path: Path) -> None:
    """SIGHUP to all processes, as a terminal sends it: one of them answers, none is left, none complains."""
    script, pipes = tmp_path / "working.py", [tmp_path / name for name in "ab"]
    script.write_text(WORKING)
    for pipe in pipes:
        os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, pipes)], stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    watched = [os.pidfd_open(int(pipe.read_text())) for pipe in pipes]
    os.killpg(process.pid, signal.SIGHUP)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 129 and "Traceback" not in said, said
    for each in watched:
        assert select.select([each], [], [], PATIENCE)[0], "a worker outlived its parent"
        os.close(each)


@pytest.mark.parametrize("number", ONE_QUICK)
def test_a_script_with_options_ends_as_the_command_does(number: int) -> None:
    code = """
from prunevid_qwen.cli import run_script
def work(many: int = 1):
    print(many, file=sys.stderr, flush=True)
    signal.pause()
run_script(work)
"""
    process = start(code, "--many", "3")
    assert process.stderr is not None and process.stderr.readline() == "3\n"
    os.kill(process.pid, number)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    process = start(code, "--few", "3")
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
