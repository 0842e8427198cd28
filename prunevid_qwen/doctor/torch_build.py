"""torch, the GPU, and the libraries that have to match this torch."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from prunevid_qwen.doctor.apart import Installed
from prunevid_qwen.doctor.finding import ABSENT, FAULT, OK, WARNING, Finding, first_line

_GIB = 2**30
MODULES = ("torch", "torchvision", "transformers", "triton", "flash_attn")
_GPU_BUILD = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu128"


def torch_itself(found: Mapping[str, Installed]) -> Iterator[Finding]:
    """Say which build of torch is installed."""
    if "torch" not in found:
        yield Finding("torch", FAULT, "is not installed", "pip install 'torch>=2.6'")
        return
    if found["torch"].error is not None:
        said = f"cannot be imported: {first_line(found['torch'].error)}"
        yield Finding("torch", FAULT, said, "pip install --force-reinstall torch")
        return
    import torch

    built = "the CPU"
    if torch.version.cuda is not None:
        built = f"CUDA {torch.version.cuda}"
    elif getattr(torch.version, "hip", None) is not None:
        built = f"ROCm {torch.version.hip}"
    figures = {"version": str(torch.__version__), "built_for": built, "threads": torch.get_num_threads()}
    old = tuple(int(part) for part in str(torch.__version__).split(".")[:2]) < (2, 6)
    state, fix = (FAULT, "pip install -U 'torch>=2.6'") if old else (OK, "")
    said = f"{torch.__version__}, built for {built}, {torch.get_num_threads()} threads"
    yield Finding("torch", state, f"{said}; 2.6 is the oldest supported" if old else said, fix, figures)


def gpus() -> Iterator[Finding]:
    """Say which GPUs torch sees, and compute on each."""
    import torch

    if torch.cuda.is_available():
        driver = _driver()
        for number in range(torch.cuda.device_count()):
            yield _gpu(torch, number, driver)
        return
    there = _driver()
    if there:
        build = torch.version.cuda is None and getattr(torch.version, "hip", None) is None
        why = "this torch is a CPU build" if build else "torch and the driver do not go together"
        fix = _GPU_BUILD if build else f"update the driver ({there}), or install a torch for it"
        yield Finding("GPU", WARNING, f"there is one, and torch does not see it: {why}", fix, {"driver": there})
    elif torch.backends.mps.is_available():
        yield Finding("GPU", OK, 'Apple\'s: pass device="mps"; untested', figures={"mps": True})
    else:
        yield Finding("GPU", OK, "none: the CPU answers", figures={"count": 0})


def _gpu(torch: Any, number: int, driver: str) -> Finding:
    about = torch.cuda.get_device_properties(number)
    name, figures = f"GPU {number}", {"name": about.name, "memory": about.total_memory, "driver": driver}
    try:
        free, total = torch.cuda.mem_get_info(number)
        a = torch.arange(64.0, dtype=torch.float64).view(8, 8)
        right = torch.equal((a.to(f"cuda:{number}") @ a.to(f"cuda:{number}").T).cpu(), a @ a.T)
        bf16 = torch.cuda.is_bf16_supported()
    except RuntimeError as error:  # no kernel for this GPU, no memory left, a driver that is too old
        said = f"{about.name} does not compute: {first_line(error)}"
        return Finding(name, FAULT, said, "install a torch built for this GPU, or pass device='cpu'", figures)
    figures |= {"free": free, "capability": [about.major, about.minor], "bf16": bf16}
    said = f"{about.name}, {free / _GIB:.1f} GiB free of {total / _GIB:.1f} GiB, capability {about.major}.{about.minor}"
    said += f", driver {driver}" if driver else ""
    if not right:
        return Finding(
            name, FAULT, f"{said}; a product of whole numbers is wrong", "update the driver and torch", figures
        )
    said += ", bfloat16" if bf16 else "; no bfloat16"
    return Finding(name, OK if bf16 else WARNING, said, "" if bf16 else "pass --dtype float16", figures)


def _driver() -> str:
    """Return the driver's version as its own program says it, "" where there is none."""
    for program, words in (
        ("nvidia-smi", ("--query-gpu=driver_version", "--format=csv,noheader")),
        ("rocm-smi", ("--showdriverversion", "--csv")),
    ):
        path = shutil.which(program)
        if path is None:
            continue
        try:
            done = subprocess.run([path, *words], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):  # a driver that hangs answers nobody
            continue
        lines = [line.strip() for line in done.stdout.splitlines() if any(sign.isdigit() for sign in line)]
        if done.returncode == 0 and lines:
            return lines[0].rpartition(",")[2].strip()
    return ""


def torchvision(found: Mapping[str, Installed]) -> Iterator[Finding]:
    """Say whether an installed torchvision goes with torch: transformers imports it wherever it is installed."""
    seen = found.get("torchvision")
    if seen is None:
        yield Finding("torchvision", OK, "not installed, and not needed: pixels are made by this package", figures={})
        return
    asked, torch_is = _asked_torch(), _version("torch")
    matching = f"pip install 'torch=={asked}'" if asked else "pip install -U torch torchvision"
    fix = f"pip uninstall torchvision (this package does not need it), or {matching} to match it"
    figures: dict[str, Any] = {"version": _version("torchvision") or seen.version, "asks_for_torch": asked}
    if seen.error is not None:
        said = f"cannot be imported, so transformers cannot import a model: {first_line(seen.error)}"
        yield Finding("torchvision", FAULT, said, fix, figures)
    elif asked and torch_is and asked.split("+")[0] != torch_is.split("+")[0]:
        said = f"{seen.version} is built for torch {asked}, and torch is {torch_is}"
        yield Finding("torchvision", WARNING, said, fix, figures)
    else:
        yield Finding("torchvision", OK, f"{seen.version}, matches torch", figures=figures)


def _asked_torch() -> str:
    """Return the release of torch that the installed torchvision was built for, "" where it does not say."""
    try:
        asked = metadata.requires("torchvision") or []
    except metadata.PackageNotFoundError:
        return ""
    from packaging.requirements import Requirement

    own = [each for each in map(Requirement, asked) if each.name == "torch"]
    exact = [each.version for one in own for each in one.specifier if each.operator == "=="]
    return exact[0] if exact else ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def fast_attention(found: Mapping[str, Installed]) -> Iterator[Finding]:
    """Say whether flash-attn and Triton are there; both serve a GPU alone."""
    for module, name, fix in (
        ("flash_attn", "flash-attn", "pip install flash-attn --no-build-isolation"),
        ("triton", "triton", "pip install 'prunevid_qwen[triton]'"),
    ):
        seen = found.get(module)
        if seen is None:
            yield Finding(name, ABSENT, "not installed; it is of use on a GPU alone", fix)
        elif seen.error is not None:
            again = f"pip uninstall {name}, or {fix.replace('install', 'install --force-reinstall', 1)}"
            yield Finding(name, WARNING, f"cannot be imported: {first_line(seen.error)}", again)
        else:
            yield Finding(name, OK, seen.version, figures={"version": seen.version})
