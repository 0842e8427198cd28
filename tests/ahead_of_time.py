"""Compile kernels for GPUs that are not there: ``python -m tests.ahead_of_time [--all] KERNEL...``.

Of each kernel's `aot_cases` the widest (the largest product of its constants) of every function and pointer type, or
with ``--all`` every one. Prints a JSON line a compile, with what the compiler reported: registers, what was spilled to
memory (bytes on NVIDIA; on AMD vector registers and bytes of scratch) and bytes of shared memory. Run it without
TRITON_INTERPRET, which must be settled before triton is imported; `test_kernels_compile` does.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
# What one program may have: NVIDIA's programming guide, compute capabilities; AMD's MI300 instruction set guide
SHARED_BYTES = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}


def compile_case(case: Any, target: str) -> dict[str, Any]:
    """Compile one of a kernel's `aot_cases` for a target; what the launcher would be told of its arguments included."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, signature, constants, options = case
    # at run time triton learns which pointers and numbers are multiples of 16: it is so unless the kernel declines
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, parameter in enumerate(kernel.params)
        if (signature[parameter.name].startswith("*") or signature[parameter.name] in ("i32", "i64"))
        and not (parameter.do_not_specialize or parameter.do_not_specialize_on_alignment)
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    compiled = triton.compile(source, target=GPUTarget(*TARGETS[target]), options=dict(options))
    report = {"shared": compiled.metadata.shared, **_resources(compiled.asm, target)}
    return report


def _resources(asm: dict[str, Any], target: str) -> dict[str, Any]:
    if target.startswith("gfx"):
        found = {
            name: re.search(rf"\.{name}:\s+(\d+)", asm["amdgcn"])
            for name in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
        }
        registers, spilled, scratch = (int(each[1]) if each else -1 for each in found.values())
        if -1 in (registers, spilled, scratch):
            raise RuntimeError(f"the assembly of {target} does not say what is spilled: {found}")
        return {"registers": registers, "spilled": spilled + scratch}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "kernel.ptx")
        text.write_text(asm["ptx"])
        done = subprocess.run(
            [_ptxas(target), "-v", "-arch", _arch(asm["ptx"]), str(text), "-o", str(Path(folder, "kernel.cubin"))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"ptxas refused the PTX of {target}:\n{done.stderr}")
    spilled = re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
    used = re.search(r"Used (\d+) registers", done.stderr)
    if not spilled or used is None:
        raise RuntimeError(f"ptxas -v did not say what {target} uses:\n{done.stderr}")
    return {"registers": int(used[1]), "spilled": sum(map(int, spilled))}


def _arch(ptx: str) -> str:
    return re.search(r"\.target (sm_\w+)", ptx)[1]  # type: ignore[index]


def _ptxas(target: str) -> str:
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    names = ("ptxas-blackwell", "ptxas") if target != "sm_80" else ("ptxas", "ptxas-blackwell")
    found = [str(folder / name) for name in names if (folder / name).is_file()] or [shutil.which("ptxas") or ""]
    if not found[0]:
        raise RuntimeError(f"no ptxas in {folder} nor on the PATH: spills of {target} cannot be read")
    return found[0]


def widest(cases: list[Any]) -> list[Any]:
    """Return of each function and pointer type the case whose whole numbers multiply to the most.

    fp16 and bf16 differ in nothing that a register holds: bf16 stands for both, where both are there.
    """
    best: dict[Any, tuple[int, Any]] = {}
    for case in cases:
        kinds = tuple(case[1].values())
        twin = (case[0].__name__, tuple(kind.replace("fp16", "bf16") for kind in kinds if kind != "constexpr"))
        size = math.prod(value for value in case[2].values() if isinstance(value, int) and value > 0)
        if twin not in best or size > best[twin][0]:
            best[twin] = size, case
    return [case for _, case in best.values()]


def main(names: list[str], everything: bool) -> None:
    """Compile cases of the named kernels for every target."""
    assert os.environ.get("TRITON_INTERPRET", "0") in ("", "0"), "the interpreter compiles nothing"
    for name in names:
        cases = importlib.import_module(f"prunevid_qwen.kernels.{name}").aot_cases()
        for case in cases if everything else widest(cases):
            for target in TARGETS:
                start = time.perf_counter()
                line: dict[str, Any] = {"kernel": name, "function": case[0].__name__, "target": target}
                line |= {"constants": {k: str(v) for k, v in case[2].items()}, "options": case[3]}
                try:
                    line |= compile_case(case, target)
                except Exception as error:  # whatever the compiler says, the test shows it
                    line["error"] = f"{type(error).__name__}: {error}"
                print(json.dumps({**line, "seconds": round(time.perf_counter() - start, 3)}), flush=True)


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name != "--all"], "--all" in sys.argv)
