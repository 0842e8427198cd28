"""Training a glimpse predictor: a run that was cut off ends where a whole one does, and only the trainee learns."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen.errors import ConfigError, MediaError, SetupError
from prunevid_qwen.processes.interruption import signal_of
from prunevid_qwen.stage2_select.glimpse import GlimpseVIP
from prunevid_qwen.training.glimpse import train as training
from prunevid_qwen.training.glimpse.train import train
from tests.glimpse_training import Killed, base_model, checkpoint, close_curves, curves, killed_in_step, small
from tests.patience import PATIENCE
from tests.tolerances import LOGITS, close

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "load_base", lambda recipe, device: base_model())


@pytest.fixture
def files_for_tensors() -> Iterator[None]:
    """Let workers hand tensors over in files: the other way is a socket, which tests do not open."""
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    yield
    torch.multiprocessing.set_sharing_strategy(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "load_base", lambda recipe, device: base_model())
        train(small(), folder, check=False)
    return folder


def assert_same_run(folder: Path, whole: Path) -> None:
    """Curves, weights and optimizer are those of the uninterrupted run, bit for bit."""
    assert curves(folder) == curves(whole)
    mine, theirs = checkpoint(folder), checkpoint(whole)
    assert mine["step"] == theirs["step"] == 5
    for name, tensor in theirs["trainee"].items():
        assert torch.equal(mine["trainee"][name], tensor), name
    for number, state in theirs["optimizer"]["state"].items():
        assert torch.equal(mine["optimizer"]["state"][number]["exp_avg_sq"], state["exp_avg_sq"])


# ---- a run goes on where it was


@pytest.mark.parametrize("step", [3, *(pytest.param(each, marks=pytest.mark.nightly) for each in (1, 2, 4, 5))])
def test_a_run_killed_in_any_step_ends_as_if_it_had_not_been(whole: Path, tmp_path: Path, step: int) -> None:
    with pytest.raises(Killed):
        killed_in_step(small(), tmp_path, step)
    saved = checkpoint(tmp_path)["step"] if (tmp_path / "checkpoint.pt").exists() else 0
    assert saved == (step - 1) // 2 * 2  # that step itself was not saved
    train(small(), tmp_path, check=False)
    assert_same_run(tmp_path, whole)


@pytest.mark.nightly
def test_a_process_killed_for_real_goes_on(whole: Path, tmp_path: Path) -> None:
    code = (  # as many threads as here: two of them sum in another order than one
        f"import os, signal, sys, torch; torch.set_num_threads({torch.get_num_threads()})\n"
        "from pathlib import Path\n"
        "from tests.glimpse_training import killed_in_step, small\n"
        "killed_in_step(small(), Path(sys.argv[1]), 3, lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL
    with (tmp_path / "curve.jsonl").open("a") as file:
        file.write('{"step": 4, "lm"')  # what a kill in the middle of a write would leave
    train(small(), tmp_path, check=False)
    assert_same_run(tmp_path, whole)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.nightly),
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.nightly),
    ],
)
def test_a_signal_finishes_the_step_and_saves_it(
    whole: Path, tmp_path: Path, number: int, as_in_a_terminal: None
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as raised:
        killed_in_step(small(), tmp_path, 1, lambda: os.kill(os.getpid(), number))
    assert signal_of(raised.value) == number
    assert signal.getsignal(number) is before
    assert checkpoint(tmp_path)["step"] == 1  # no step that save_every asks for
    train(small(), tmp_path, check=False)
    assert_same_run(tmp_path, whole)


@pytest.mark.nightly
def test_ctrl_c_reaches_workers_too_and_the_step_is_finished_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_for_tensors: None, as_in_a_terminal: None
) -> None:
    loss_of, told = training.loss_of, []

    def to_all(*arguments: Any) -> Any:
        """In the middle of the first step, with more forwards to come than are read ahead."""
        if not told:
            told.extend(child.pid for child in multiprocessing.active_children())
            for process in (*told, os.getpid()):
                os.kill(process, signal.SIGINT)
        return loss_of(*arguments)

    monkeypatch.setattr(training, "loss_of", to_all)
    with pytest.raises(KeyboardInterrupt):
        train(small(steps=2, effective_batch=8, workers=1), tmp_path, check=False)
    assert told and checkpoint(tmp_path)["step"] == 1


@pytest.mark.nightly
def test_a_finished_run_is_finished(whole: Path, files_for_tensors: None) -> None:
    written = [whole / name for name in ("checkpoint.pt", "train.json", "model/model.safetensors")]
    before = curves(whole), [path.stat().st_mtime_ns for path in written]
    record = train(small(save_every=4, workers=1), whole, check=False)  # neither changes what comes out
    assert (curves(whole), [path.stat().st_mtime_ns for path in written]) == before
    assert record["training"][0]["step"] == record["evaluation"][0]["step"] == 5


def test_the_curves_have_each_step_once(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 5]
    assert {"lr", "lm", "dice", "bce", "precision", "recall", "f1", "iou", "kept", "seconds"} < set(lines[0])
    assert [json.loads(line)["step"] for line in (whole / "evaluation.jsonl").read_text().splitlines()] == [3, 5]
    assert json.loads((whole / "train.json").read_text())["recipe"] == small().to_dict()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rate": 2e-3}, "learning_rate was 0.001 and is 0.002"),
        ({"data": {"kind": "moving_shapes", "samples": 8, "conditions": {"plain": 1.0}}}, "data was "),
    ],
)
def test_another_recipe_is_refused_and_named(whole: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        train(small(**changes), whole, check=False)
    assert "--restart" in str(error.value) and "width" not in str(error.value)


def test_restart_begins_anew_and_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    train(small(steps=1), tmp_path, check=False)
    (tmp_path / "notes.txt").write_text("mine")
    train(small(steps=1, seed=1), tmp_path, check=False, restart=True)
    assert (tmp_path / "notes.txt").exists() and checkpoint(tmp_path)["about"]["recipe"]["seed"] == 1


@pytest.mark.nightly
def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(_state: Any, file: Any) -> None:
        file.write(b"PK half of it")
        raise OSError("no space left on device")

    with pytest.raises(Killed):
        killed_in_step(small(), tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(SetupError, match="no space left"):
            train(small(), tmp_path, check=False)
    train(small(), tmp_path, check=False)
    assert_same_run(tmp_path, whole)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    for spoil in (
        lambda: path.write_bytes(b"half of one"),
        lambda: torch.save({"model": {}}, path),
        lambda: torch.save(small(), path),
    ):
        spoil()
        with pytest.raises(SetupError, match=r"checkpoint\.pt cannot be read .*--restart"):
            train(small(), tmp_path, check=False)


# ---- how the work is divided


def test_a_step_is_the_same_however_it_is_divided(tmp_path: Path) -> None:
    """Batches of 4, 2 x 2 and 4 x 1, dropout included: the optimizer sees the same gradients."""
    seen = {}
    for size in (4, 2, 1):
        folder = tmp_path / str(size)
        recipe = small(steps=1, effective_batch=4, per_device_batch=size, eval_data={}, eval_every=None)
        # clipped, gradients of another scale would look the same
        train(recipe.replace(max_grad_norm=1e9), folder, check=False)
        seen[size] = checkpoint(folder)["optimizer"]["state"], curves(folder)
    for size in (2, 1):
        for number, state in seen[4][0].items():
            mine, theirs = seen[size][0][number]["exp_avg"], state["exp_avg"]
            close(mine, theirs, LOGITS)
        close_curves(seen[size][1], seen[4][1])


@pytest.mark.nightly
def test_evaluating_and_reading_ahead_change_nothing(whole: Path, tmp_path: Path, files_for_tensors: None) -> None:
    train(small(eval_data={}, eval_every=None, workers=1), tmp_path, check=False)
    assert not (tmp_path / "evaluation.jsonl").exists()
    for name, tensor in checkpoint(whole)["trainee"].items():
        assert torch.equal(checkpoint(tmp_path)["trainee"][name], tensor), name


def rank_of_two(rank: int, port: int, folder: Path, threads: int) -> None:
    """One of two processes that a launcher would have started."""
    torch.set_num_threads(threads)
    training.load_base = lambda recipe, device: base_model()  # type: ignore[assignment]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(small(), folder, check=False, device="cpu")
    torch.distributed.destroy_process_group()


@pytest.mark.nightly
def test_two_processes_do_what_one_does(whole: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # a forked one may wait for ever for the threads that this process computes with
    spawn, threads = multiprocessing.get_context("spawn"), torch.get_num_threads()
    ranks = [spawn.Process(target=rank_of_two, args=(rank, port, tmp_path, threads), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=PATIENCE)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert json.loads((tmp_path / "train.json").read_text())["processes"] == 2
    close_curves(curves(tmp_path), curves(whole))
    train(small(), tmp_path, check=False)  # one process goes on with what two have left


def test_evaluation_knows_no_dropout(tmp_path: Path) -> None:
    lines = []
    for dropout in (0.0, 0.9):
        folder = tmp_path / str(dropout)
        train(small(steps=1, warmup_ratio=0.5, le_dropout=dropout), folder, check=False)  # the first rate is 0
        lines.append(curves(folder))
    assert lines[0][1] == lines[1][1] and lines[0][0] != lines[1][0]


# ---- what is learnt


def test_only_the_trainee_learns_and_the_model_folder_is_it(whole: Path, tmp_path: Path) -> None:
    model, _ = base_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(small(steps=1), tmp_path, check=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    late, early = checkpoint(whole)["trainee"], checkpoint(tmp_path)["trainee"]
    assert all(not torch.equal(tensor, early[name]) for name, tensor in late.items())
    predictor = GlimpseVIP.from_pretrained(whole / "model")
    assert predictor.facts.reduce_layer == 5 and predictor.facts.selected_visual_layers == (3, 2, 1, 0)
    for name, tensor in predictor.vip.state_dict().items():
        assert torch.equal(tensor, late[f"vip.{name}"])


def test_bf16_keeps_the_weights_in_float32(tmp_path: Path) -> None:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    try:
        train(small(steps=2, precision="bf16", eval_data={}, eval_every=None), tmp_path, check=False)
    finally:
        AcceleratorState._reset_state(True)
    saved = checkpoint(tmp_path)
    states = [part for state in saved["optimizer"]["state"].values() for name, part in state.items() if name != "step"]
    assert all(tensor.dtype == torch.float32 for tensor in [*saved["trainee"].values(), *states])


def test_a_loss_that_is_no_number_stops_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        training, "loss_of", lambda recipe, outcome: (outcome.lm * float("nan"), outcome.lm, outcome.lm)
    )
    with pytest.raises(ConfigError, match="loss of step 1 is nan: lower learning_rate"):
        train(small(), tmp_path, check=False)


def test_bad_data_is_refused_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "load_base", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "set.jsonl").write_text(json.dumps({"question": "?", "answer": "", "image": "no.jpg", "bboxs": []}))
    data = {"kind": "visual_cot", "path": str(tmp_path / "set.jsonl"), "images": str(tmp_path)}
    with pytest.raises(MediaError, match="data: 1 of 1 records cannot be trained on"):
        train(small(data=data), tmp_path / "out")
