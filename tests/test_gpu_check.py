"""`make gpu-check` itself: no kernel is forgotten, its checks can fail, time and missing tools are accounted for."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu import kernels, parts, tower, whole_path
from tests.interpreter import needs_interpreter
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def tool() -> Any:
    """The script, which stands beside the module that it imports."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    return importlib.import_module("gpu_check")


gpu_check = tool()


def test_every_kernel_is_compared() -> None:
    assert set(kernels.triton_files()) <= set(kernels.KERNELS), "give the new kernel a line in KERNELS"
    assert all(kernel.odd and kernel.real for kernel in kernels.KERNELS.values())


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_the_checks_of_kernels_pass_on_a_cpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "triton_files", dict)  # torch's path runs here
    for size in kernels.KERNELS[name].odd:
        for dtype in kernels.FLOATS:
            assert kernels.check(name, size, dtype, torch.Generator().manual_seed(1)) == "", (size, dtype)


@needs_interpreter
@pytest.mark.filterwarnings("ignore:divide by zero encountered in log:RuntimeWarning")
@pytest.mark.parametrize("name", kernels.triton_files())
def test_the_checks_of_kernels_pass_under_the_interpreter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "wants_triton", lambda _: True)
    if importlib.util.find_spec(f"prunevid_qwen.kernels.{name}") is not None:
        module = importlib.import_module(f"prunevid_qwen.kernels.{name}")
        monkeypatch.setattr(module, "wants_triton", lambda _: True, raising=False)
    size = min(kernels.KERNELS[name].odd[1:], key=lambda size: size["shape"])
    assert kernels.check(name, size, torch.bfloat16, torch.Generator().manual_seed(1)) == ""


@pytest.mark.parametrize("name", kernels.KERNELS)
@pytest.mark.parametrize("spoilt", ["value", "unwritten", "unsteady"])
def test_the_checks_of_kernels_can_fail(name: str, spoilt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, calls = kernels.KERNELS[name], []
    monkeypatch.setattr(kernels, "triton_files", dict)

    def broken(*given: Any) -> Any:
        got = kernel.run(*given)
        calls.append(got)
        first = kernels._tensors(got)[0]
        if spoilt == "unwritten" and first.is_floating_point():
            first[(-1,) * first.dim()] = float("nan")
        elif spoilt != "unsteady" or len(calls) == 2:
            first[(0,) * first.dim()] += 1
        return got

    monkeypatch.setitem(kernels.KERNELS, name, dataclasses.replace(kernel, run=broken))
    size = kernel.odd[-1]
    wrong = kernels.check(name, size, torch.float32, torch.Generator().manual_seed(1))
    assert wrong and ("two runs differ" in wrong) == (spoilt == "unsteady")


@pytest.mark.parametrize("name", kernels.triton_files())
def test_a_kernel_whose_triton_form_is_not_reached_fails(name: str) -> None:
    """As here, on a CPU."""
    size = kernels.KERNELS[name].odd[0]
    assert "not reached" in kernels.check(name, size, torch.float32, torch.Generator().manual_seed(1))


def test_the_checks_of_the_whole_path_pass_on_a_cpu_and_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert whole_path.keeps_the_tokens_that_a_cpu_keeps(CPU, "ragged") == ""
    assert whole_path.keep_everything_equals_stock(CPU, "ragged", torch.bfloat16) == ""
    path = dict(parts.path_checks(CPU, 0))
    for name in [name for name in path if "glimpse" in name]:
        assert path[name]() == ""
    batched = [path[name] for name in path if "windows" in name]
    assert len(batched) == 6 and {check() for check in batched} == {""}
    with monkeypatch.context() as patch:
        stacked = tower.windows.stacked
        patch.setattr(tower.windows, "stacked", lambda lengths, most: stacked(lengths[::-1], most))
        assert tower.windows_differ(CPU, torch.float32, tower.STACKS, 0) != ""
    monkeypatch.setattr(whole_path, "PRUNES", whole_path.KEEPS)
    assert "proves nothing" in whole_path.keeps_the_tokens_that_a_cpu_keeps(CPU, "ragged")
    monkeypatch.setattr(whole_path, "KEEPS", {**whole_path.KEEPS, "keep_ratio": 0.2})
    assert whole_path.keep_everything_equals_stock(CPU, "ragged", torch.float32) != ""


@pytest.mark.parametrize(
    ("frames", "part"),
    [
        ([("torch/nn/module.py", "_call"), ("P/run.py", "after_layer"), ("P/prefill.py", "select")], "stage 2"),
        ([("P/run.py", "_merge"), ("P/prefill.py", "merge"), ("P/stage1_merge/prunevid/on_cpu.py", "plan")], "stage 1"),
        ([("P/prefill.py", "merge"), ("P/tokens.py", "mean"), ("P/kernels/cluster_mean.py", "_sorted")], "stage 1"),
        ([("P/hooks.py", "forward"), ("P/vision.py", "encode"), ("S/transformers/models/q/m.py", "forward")], ""),
        ([("P/run.py", "after"), ("P/masks.py", "mask"), ("S/transformers/masks.py", "f")], "masks"),
        ([("P/run.py", "after"), ("P/batch.py", "x"), ("S/torch/f.py", "f")], "batch.py:1 in x"),
        ([("P/hooks.py", "get_rope_index"), ("P/adapters/qwen_vl.py", "reference_positions"),
          ("P/adapters/qwen_vl.py", "_merged")], ""),
        ([("S/transformers/models/m.py", "forward"), ("P/prompt.py", "fetch"), ("P/batch.py", "on_host")],
         "reading the prompt"),
        ([("S/transformers/generation/utils.py", "generate")], ""),
        ([("S/transformers/models/q/m.py", "forward"), ("P/vision/windows.py", "windows")], "vision"),
    ],
)  # fmt: skip
def test_a_wait_belongs_to_the_part_that_asked(frames: list[tuple[str, str]], part: str) -> None:
    stack = [
        traceback.FrameSummary(file.replace("P/", f"{whole_path.PACKAGE}/"), 1, name, lookup_line=False)
        for file, name in frames
    ]
    assert whole_path.part_of(stack) == part


def test_too_many_waits_are_named() -> None:
    few, many = Counter({"stage 1": 1, "reading the prompt": 1}), Counter({"stage 1": 2, "run.py:7 in x": 1})
    assert whole_path.waits_too_often(few, "one_video") == ""
    assert whole_path.waits_too_often(many, "one_video") == "run.py:7 in x: 1; stage 1: 2"
    assert whole_path.waits_too_often(many, "ragged") == "run.py:7 in x: 1", "three videos, and a row of two"


def test_checks_after_the_time_are_named_not_run() -> None:
    def fails() -> str:
        raise RuntimeError("no such\nkernel")

    checks = [("a", lambda: ""), ("b", fails), ("c", lambda: {"ms": 1}), ("d", lambda: "is off")]
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in parts.carry_out(iter(checks), float("inf"))]
    assert lines == [
        {"check": "a", "wrong": ""},
        {"check": "b", "wrong": "RuntimeError: no such kernel"},
        {"check": "c", "wrong": "", "found": {"ms": 1}},
        {"check": "d", "wrong": "is off"},
    ]
    late = list(parts.carry_out(iter(checks[:2]), -1.0))
    assert [line["check"] for line in late] == ["a", "b"]
    assert all("not_run" in line for line in late)


def test_every_part_has_its_checks() -> None:
    assert {part.runs for part in gpu_check.PARTS} == set(parts.PARTS)
    names = [name for name, _ in parts.kernel_checks(CPU, 0)]
    assert len(names) == len(set(names)), "two checks of one name"
    assert {name.split()[0] for name in names} == set(kernels.KERNELS)
    assert {name.split()[0] for name, _ in parts.sanitized(CPU, 0)} == set(kernels.triton_files())
    assert {name.split()[0] for name, _ in parts.timings(CPU, 0)} == {*kernels.KERNELS, "stage"}
    paths = [name for name, _ in parts.path_checks(CPU, 0)]
    assert len(paths) == len(set(paths)) >= 12
    (_, versions), = parts.about(CPU, 0)  # fmt: skip
    assert versions()["torch"] == torch.__version__.split("+")[0] or versions()["torch"] == torch.__version__


def test_the_towers_times_are_all_there() -> None:
    """On a CPU there is neither torch's varlen attention nor flash attention: the line says so."""
    found = tower.times(CPU, (4, 3, 5), 0, "tiny", rounds=2)
    assert {way: len(each) for way, each in found["raw_ms"].items()} == {tower.STOCK: 2, tower.STACKS: 2}
    assert set(found["not"]) == {tower.VARLEN, tower.FLASH} and all(found["not"].values())
    assert found["times_faster"][tower.STOCK] == 1.0
    assert len(list(parts.tower_timings(CPU, 0))) == len(tower.SIZES)
    json.dumps(found)


def test_the_parts_share_the_time() -> None:
    every = gpu_check.PARTS
    assert sum(part.seconds for part in every) <= 540, "nine minutes"
    left = 540.0
    for i, part in enumerate(every):
        given = gpu_check.seconds_for(every[i:], left)
        assert given >= part.seconds
        left -= given  # each takes all it is given
    assert left >= 0
    assert gpu_check.seconds_for(every[:1], 500.0) == 500.0, "the last part gets what is left"
    assert gpu_check.seconds_for(every, 20.0) == 20.0
    assert gpu_check.seconds_for(every, -3.0) == 0.0


def run(code: str, seconds: float = 60.0, part: Any = gpu_check.PARTS[1]) -> dict[str, Any]:
    found: dict[str, Any] = gpu_check.carry_out(part, [sys.executable, "-c", code], seconds)
    return found


def hanging(said: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A part that hangs after a line; its time is over once the line is said, however long that takes here."""
    os.mkfifo(said)

    class Late(subprocess.Popen):  # type: ignore[type-arg]
        def communicate(self, input: Any = None, timeout: float | None = None) -> Any:
            if timeout is not None:
                said.read_bytes()
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().communicate(input)

    with monkeypatch.context() as patch:
        patch.setattr(gpu_check.subprocess, "Popen", Late)
        line = 'print(\'{"check": "a", "wrong": ""}\', flush=True)'
        return run(f"import signal; {line}; open({str(said)!r}, 'w').close(); signal.pause()", 2.0)


def test_a_part_is_judged_by_its_end_and_its_lines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = run('print(\'{"check": "a", "wrong": ""}\'); print(\'noise\'); print(\'{"x": 1}\')')
    assert good["lines"] == [{"check": "a", "wrong": ""}]
    assert gpu_check.told(gpu_check.PARTS[1], good) == (0, 0)
    assert gpu_check.told(gpu_check.PARTS[1], run('print(\'{"check": "a", "wrong": "off"}\')')) == (1, 0)
    died = run('print(\'{"check": "a", "wrong": ""}\'); raise SystemExit(5)')
    assert gpu_check.told(gpu_check.PARTS[1], died) == (1, 0)
    late = run('print(\'{"check": "a", "not_run": "no time"}\')')
    assert gpu_check.told(gpu_check.PARTS[1], late) == (0, 1)
    hangs = hanging(tmp_path / "said", monkeypatch)
    assert hangs["lines"], "what it said before it hung is kept"
    assert gpu_check.told(gpu_check.PARTS[1], hangs) == (0, 1)
    assert "FAILED a: off" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("========= ERROR SUMMARY: 0 errors", {}),
        ("========= ERROR SUMMARY: 3 errors", {"wrong": "ERROR SUMMARY: 3 errors"}),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", {}),
        (
            "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)",
            {"wrong": "RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"},
        ),
        ("Error: Device not supported\n========= ERROR SUMMARY: 1 error", "skipped"),
        ("Segmentation fault", "skipped"),
    ],
)
def test_the_sanitizers_verdict(output: str, said: Any) -> None:
    judged = gpu_check.judged(gpu_check.PARTS[-1], 0, output, "")
    assert list(judged) == [said] if isinstance(said, str) else judged == said


def test_a_missing_sanitizer_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda *_, **__: None)
    part = gpu_check.PARTS[-1]
    found = gpu_check.carry_out(part, gpu_check.command(part, 60.0, 0), 60.0)
    assert gpu_check.told(part, found) == (0, 0)
    monkeypatch.setattr(gpu_check.shutil, "which", lambda *_, **__: "/x/compute-sanitizer")
    assert gpu_check.command(part, 60.0, 0)[:3] == ["/x/compute-sanitizer", "--tool", "racecheck"]


def test_without_a_gpu_it_says_so_and_ends_well() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, "tools/gpu_check.py"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0
    assert "skipped: this machine has no GPU" in done.stdout


def test_a_gpu_that_torch_does_not_see_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "gpu_kind", lambda: "bare")
    assert gpu_check.main([]) == 1
    assert "no torch that sees it" in capsys.readouterr().out


def test_the_whole_check_sums_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With parts that pass, fail, are skipped and come too late; the file holds them all."""
    lines = {"kernels": [{"check": "a", "wrong": "off"}], "about": [{"check": "versions", "wrong": "", "found": {}}]}
    monkeypatch.setattr(gpu_check, "command", lambda *_: [])
    monkeypatch.setattr(gpu_check, "carry_out", lambda part, *_: {"lines": lines.get(part.runs, [])})
    out = tmp_path / "deep" / "check.json"
    assert gpu_check.check(out, 530.0, 7) == 1
    report = json.loads(out.read_text())
    assert (report["failed"], report["not_run"], report["seed"]) == (1, 0, 7)
    assert list(report["parts"]) == [part.name for part in gpu_check.PARTS]
    lines["kernels"] = []
    assert gpu_check.check(out, 530.0, 7) == 0
    assert gpu_check.check(out, 5.0, 7) == 1, "nothing was reached"
    assert json.loads(out.read_text())["not_run"] == len(gpu_check.PARTS)
    assert "no time was left" in capsys.readouterr().out
