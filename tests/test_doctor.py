"""`prunevid doctor`: each fault is named with its fix, and no broken library ends the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from prunevid_qwen.adapters import seams
from prunevid_qwen.cli import main
from prunevid_qwen.doctor import Examination, Finding, apart, examination, examine, hub, machine, packages, readers

from prunevid_qwen.doctor import kernel_checks, release_check, torch_build  # isort: skip
from prunevid_qwen.doctor.apart import Installed, imported
from prunevid_qwen.doctor.finding import ABSENT, FAULT, OK, STATES, WARNING, Inspection, findings_of
from prunevid_qwen.errors import SetupError
from prunevid_qwen.forward import hooks
from prunevid_qwen.forward.selfcheck import Check, SelfCheck, checks
from prunevid_qwen.kernels import cluster_mean
from prunevid_qwen.version import TESTED
from prunevid_qwen.video import backends
from tests.models import tiny_model
from tests.test_selfcheck import another_name_for_the_cache

PYAV = {"pyav": backends.BACKENDS["pyav"]}
THERE = {"torch": Installed("2.99"), "triton": Installed("3.9")}
ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ROOT / "tests" / "plugins"


def only(found: Any) -> Finding:
    (one,) = found
    return one


# ---- transformers


def test_a_renamed_cache_keyword_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = type(tiny_model("eager").model.language_model)
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    monkeypatch.setattr(seams, "transformers_release", lambda: "5.99.0")
    assert release_check.self_check_of("qwen2_5_vl").state == OK
    another_name_for_the_cache(monkeypatch, {"decoder": decoder})
    found = release_check.self_check_of("qwen2_5_vl")
    assert found.state == FAULT and any(f"{name!r}" in found.said for name in seams.CACHE_NAMES)
    assert f"transformers=={TESTED[-1]}" in found.fix
    assert found.figures["failed"] and found.figures["transformers"] == "5.99.0"


def test_a_self_check_that_fails_for_torchvision_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers hides why a class cannot be imported behind an error of its own."""
    hidden = ModuleNotFoundError("Could not import module")
    hidden.__cause__ = RuntimeError("operator torchvision::nms does not exist")
    failed = SelfCheck("llava", TESTED[-1], "2.99", (Check("stock model", False, error=hidden),))
    monkeypatch.setattr(hooks, "self_check", lambda family: failed)
    found = release_check.self_check_of("llava")
    assert found.state == FAULT and "torchvision::nms" in found.said and "torchvision" in found.fix


@pytest.mark.parametrize(
    ("version", "state", "tested"), [(TESTED[0], OK, True), ("5.99.1", OK, False), ("5.4.0", FAULT, None)]
)
def test_releases(version: str, state: str, tested: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: version)
    found = only(findings_of(Inspection("Libraries", "transformers", release_check.release, breaks=True)))
    assert (found.state, found.figures.get("tested"), found.group) == (state, tested, "Libraries")


# ---- video


def test_every_codec_of_the_default_reader_and_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BACKENDS", PYAV)
    found = only(readers.readers())
    assert found.state == OK, found
    assert set(found.figures) == set(readers.CLIPS) == {"H.264", "H.265", "VP9", "AV1"}
    assert all(0 < each["off"] < readers.LEVELS / 3 for each in found.figures.values()), "levels: clips are not exact"


def test_a_missing_codec_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A codec that no PyAV has stands for one that this PyAV has not: its name in the file is another."""
    strange = tmp_path / "strange.mp4"
    strange.write_bytes(readers.CLIPS["H.265"].read_bytes().replace(b"hev1", b"zzzz").replace(b"hvc1", b"zzzz"))
    monkeypatch.setattr(backends, "BACKENDS", PYAV)
    found = only(readers.readers({"H.264": readers.CLIPS["H.264"], "H.265": strange}))
    assert found.state == FAULT and "H.265" in found.said.partition("cannot decode")[2] and found.fix
    assert "error" in found.figures["H.265"] and "error" not in found.figures["H.264"]
    assert str(tmp_path) not in found.said


def test_a_missing_or_wrong_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    right = [10.0, 20.0, 30.0]
    answers = {
        "pyav": {"off": 1.0, "areas": right},
        "decord": {"off": 1.0, "areas": [10.0, 20.0, 60.0]},
        "opencv": {"off": 99.0, "areas": right},
        "torchcodec": {"error": "no FFmpeg"},
    }
    monkeypatch.setattr(readers, "is_there", lambda module: module != "qwen_vl_utils")
    monkeypatch.setattr(readers, "clips_read", lambda backend, clips: dict.fromkeys(clips, answers[backend]))
    found = {each.name: each for each in readers.readers()}
    states = {name: each.state for name, each in found.items()}
    assert states == {
        "pyav": OK, "decord": WARNING, "opencv": WARNING, "torchcodec": WARNING, "qwen-vl-utils": ABSENT,
    }  # fmt: skip
    assert all(bool(each.fix) == (each.state != OK) for each in found.values())
    monkeypatch.setattr(readers, "is_there", lambda module: False)
    states = {each.name: each.state for each in readers.readers()}
    assert states.pop("pyav") == FAULT and set(states.values()) == {ABSENT}


# ---- libraries that break


def broken(folder: Path, monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))


def test_a_broken_torchvision_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken(tmp_path, monkeypatch, torchvision="raise RuntimeError('operator torchvision::nms does not exist')")
    found = only(torch_build.torchvision(imported(["torchvision"])))
    assert found.state == FAULT and "torchvision::nms" in found.said and "pip uninstall torchvision" in found.fix


@pytest.mark.parametrize(
    ("asked", "state"), [(["torch (==2.9.1)"], WARNING), (["numpy", "torch==2.99.0"], OK), ([], OK)]
)
def test_a_torchvision_of_another_torch(asked: list[str], state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    monkeypatch.setattr(metadata, "version", lambda name: "2.99.0+cpu")
    assert only(torch_build.torchvision({"torchvision": Installed("0.30")})).state == state
    assert only(torch_build.torchvision({})).state == OK


def test_a_library_that_crashes_python_is_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken(
        tmp_path, monkeypatch,
        first_of_four="__version__ = '1.5'\nprint('a library talks')",
        crashes_one="import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
        leaves_one="import sys\nsys.exit(7)",
        last_of_four="import no_such_module_anywhere",
    )  # fmt: skip
    found = imported(["first_of_four", "not_installed_here", "crashes_one", "leaves_one", "last_of_four"])
    assert list(found) == ["first_of_four", "crashes_one", "leaves_one", "last_of_four"]
    assert found["first_of_four"] == Installed("1.5")
    for name, said in (("crashes_one", "SIGSEGV"), ("leaves_one", "7"), ("last_of_four", "no_such_module_anywhere")):
        assert said in (found[name].error or ""), name


def test_a_library_that_hangs_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "SECONDS", 0.0)
    assert imported(["json"])["json"].error


def test_a_torch_that_cannot_be_imported_leaves_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, {"torch": Installed("", "OSError: libcudnn.so.9 is missing\nand more")})
    found = examine()
    fault = only(found.faults)
    assert fault.name == "torch" and "libcudnn" in fault.said and "pip install" in fault.fix
    assert {each.group for each in found.findings} >= {"Machine", "Video", "Downloads", "Extras"}
    assert "Computing" not in {each.group for each in found.findings}
    assert "transformers" not in {each.name for each in found.findings}, "whose check needs torch"


def test_a_look_that_fails_is_a_finding_behind_those_before_it() -> None:
    def look() -> Any:
        yield Finding("one", OK, "works")
        raise AttributeError("a library changed\nin two lines")

    def refuses() -> Any:
        raise SetupError("do this: then that")

    one, two = findings_of(Inspection("Group", "two", look))
    assert (one.state, two.state, one.group, two.group) == (OK, WARNING, "Group", "Group")
    assert "AttributeError" in two.said and "\n" not in two.said
    three = only(findings_of(Inspection("Group", "three", refuses, breaks=True)))
    assert (three.state, three.said) == (FAULT, "do this: then that")


# ---- computing


def test_a_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {each.name: each.state for each in kernel_checks.kernels()}
    assert set(before.values()) == {OK} and len(before) == 6
    stock = cluster_mean.cluster_mean
    monkeypatch.setattr(cluster_mean, "cluster_mean", lambda x, target, n: stock(x, target, n) * (1 + 2**-12))
    after = {each.name: each for each in kernel_checks.kernels()}
    assert [name for name, each in after.items() if each.state == FAULT] == ["means of groups"]
    monkeypatch.setattr(cluster_mean, "cluster_mean", lambda *_: 1 / 0)
    after = {each.name: each for each in kernel_checks.kernels()}
    assert "ZeroDivisionError" in after["means of groups"].said and after["means of groups"].state == FAULT


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(torch_build, "_driver", lambda: "590.1")
    found = only(torch_build.gpus())
    assert found.state == WARNING and found.fix and found.figures["driver"] == "590.1"


# ---- folders and switches


def test_an_unwritable_cache_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file where the folder is to be: root, who may write anywhere, cannot make it either."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    found = only(hub.cache())
    assert found.state == FAULT and str(tmp_path) in found.said and "HF_HOME" in found.fix
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = only(hub.verdicts())
    assert found.state == WARNING and "XDG_CACHE_HOME" in found.fix
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "new" / "hub"))
    assert next(iter(hub.cache())).state == OK
    assert not (tmp_path / "new").exists() and len(list(tmp_path.iterdir())) == 1, "nothing is left behind"


def test_a_full_or_read_only_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: Any) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert hub.why_not_writable(tmp_path) == "Read-only file system"
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5}))
    assert machine.room_in("room", tmp_path, "a fix").state == WARNING


def test_switches_and_a_token_that_is_never_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    for value, on in (("1", True), ("yes", True), ("0", False), ("", False)):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        found = only(hub.switches())
        assert ("HF_HUB_OFFLINE" in found.fix) == on and found.state == OK
    for secret in ("hf_secret", None):
        monkeypatch.setattr("huggingface_hub.get_token", lambda secret=secret: secret)
        found = only(hub.token())
        assert found.figures == {"present": secret is not None} and "hf_secret" not in repr(found)


# ---- packages


def test_plugins_that_load_and_that_do_not(registry: None, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0")
    good, bad = str(PLUGINS / "spread.py"), str(tmp_path / "bad.py")
    assert {each.name: each.state for each in packages.plugins([good, bad])} == {good: OK, bad: FAULT}
    assert only(packages.plugins()).state == OK


def test_requirements_and_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.13.0+cpu", "av": "9.0", "openai": "1.0", "matplotlib": "3.9"}
    asked = [
        "torch>=2.6", "av>=12", "numpy", "openai>=1.56; extra == 'judge'", "matplotlib>=3.8; extra == 'bench'",
        "pyarrow>=14; extra == 'eval'", "never; python_version < '3'",
    ]  # fmt: skip

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "requires", lambda name: asked)
    monkeypatch.setattr(metadata, "version", version)
    found = only(packages.required())
    assert found.state == FAULT and len(found.figures["wrong"]) == 2
    assert "av is 9.0" in found.said and "numpy" in found.said
    states = {each.name: each.state for each in packages.extras()}
    assert {name: states[name] for name in ("judge", "bench", "eval")} == {
        "judge": WARNING,
        "bench": OK,
        "eval": ABSENT,
    }


def test_the_extras_are_those_of_the_package() -> None:
    told_elsewhere = {"flash-attn", "triton", "decord", "opencv", "torchcodec", "torchvision", "qwen-vl-utils"}
    nobody_uses = {"dev", "docs", "train"}
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(text)["project"]["optional-dependencies"]) == {
        *packages.EXTRAS, *told_elsewhere, *nobody_uses,
    }  # fmt: skip


# ---- the command


def quick(monkeypatch: pytest.MonkeyPatch, there: Mapping[str, Installed] = THERE) -> None:
    """Import nothing apart, read with the default reader alone, and check the smallest family."""
    monkeypatch.setattr(examination, "imported", lambda modules: dict(there))
    monkeypatch.setattr(backends, "BACKENDS", PYAV)
    monkeypatch.setattr(
        readers, "clips_read", lambda backend, clips: {each: {"off": 0.0, "areas": [0.0]} for each in clips}
    )
    monkeypatch.setattr("prunevid_qwen.adapters.tiny.EXAMPLES", ("llava",))


def test_the_report_as_json_and_for_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    quick(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["doctor", "--json", "--out", str(tmp_path / "found.json")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert told["ok"] is True and set(told["counts"]) == set(STATES) and told["counts"][FAULT] == 0
    assert {each["group"] for each in told["findings"]} == {
        "Machine", "Libraries", "Video", "Computing", "Downloads", "Methods of others", "Extras",
    }  # fmt: skip
    assert all(each["state"] in STATES and each["said"] for each in told["findings"])
    assert "self-check, llava" in {each["name"] for each in told["findings"]}


def test_a_fault_is_exit_code_3_and_lines_are_narrow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a sentence of many words " * 9
    findings = (
        Finding("one", OK, long, group="A"), Finding("two", FAULT, long, "mend it " * 12, group="A"),
        Finding("three", ABSENT, "not installed", "pip install it", group="B"),
    )  # fmt: skip
    asked: list[Any] = []

    def examined(*given: Any) -> Examination:
        asked.append(given[:2])
        return Examination(findings, 1.0)

    monkeypatch.setattr("prunevid_qwen.doctor.examine", examined)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["doctor", "--all", "--plugin", "x.py"]) == SetupError.exit_code == 3
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 60 and "FAULT" in said and asked == [(True, ["x.py"])]
    monkeypatch.setattr("prunevid_qwen.doctor.examine", lambda *_: Examination(findings[::2], 1.0))
    assert main(["doctor"]) == 0 and "FAULT" not in capsys.readouterr().out
