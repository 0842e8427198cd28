"""lmms-eval in an environment of its own, run on the miniature of ``lmms_folder``; used by ``tools/test_lmms.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmms_folder as folder

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-lmms"
PYTHON = VENV / "bin" / "python"
# lmms-eval 0.7.3 asks for any filelock and imports a module that 4.3 no longer has
PINS = ("torch==2.13.0", "transformers==5.23.0", "lmms-eval==0.7.3", "filelock==4.0.8")

Key = tuple[str, int]


def environment() -> Path:
    """Make lmms-eval's environment, or find it made; return the folder of its package."""
    stamp = VENV / "installed"
    if not stamp.is_file() or stamp.read_text() != "\n".join(PINS):
        print("Installing lmms-eval into .venv-lmms: about two minutes, 2.4 GB", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        _pip("install", "setuptools>=65", "wheel", PINS[0])
        _pip("install", *PINS)
        # the registry's is the CUDA build, which a CPU build of torch cannot load: neither lmms-eval nor we need it
        _pip("uninstall", "--yes", "torchvision")
        _pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        stamp.write_text("\n".join(PINS))
    code = "import lmms_eval; print(lmms_eval.__path__[0])"
    return Path(subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1])


def _pip(*words: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; it ended:\n{done.stdout[-2000:]}")


@dataclass(frozen=True)
class Outcome:
    """What a run of lmms-eval left.

    Args:
        answers: (task, number of the question) -> text.
        prompts: the same -> the user's text.
        scores: task -> per cent.
        records: (task, number of the question) -> the plug-in's own line: tokens, seconds, what was read.
        results: its whole results file.
        log: what it said.
    """

    answers: dict[Key, str]
    prompts: dict[Key, str]
    scores: dict[str, float]
    records: dict[Key, dict[str, Any]]
    results: dict[str, Any]
    log: str


class Harness:
    """Runs lmms-eval on the miniature.

    Args:
        work: an empty folder.
    """

    def __init__(self, work: Path) -> None:
        self.work, self.commands = work, dict[str, str]()
        self.data = folder.write_home(work / "hf")
        self.mvbench = folder.write_tasks(work / "tasks", self.data, environment())
        offline = {name: "1" for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")}
        # one thread: on a CPU the last bit of a sum depends on their number
        self.environment = {**os.environ, **offline, "HF_HOME": str(work / "hf"), "OMP_NUM_THREADS": "1"}

    def start(
        self,
        name: str,
        arguments: str,
        tasks: Sequence[str],
        *more: str,
        processes: int = 1,
        records: str | None = None,
        **variables: str,
    ) -> subprocess.Popen[str]:
        """Start a run called ``name``; what it says goes to a log of that name, its records to a folder of theirs."""
        arguments = f"{arguments},records={self.work / 'records' / (records or name)}"
        launcher = ["-m", "lmms_eval"]
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *launcher]
            variables["ACCELERATE_USE_CPU"] = "true"
        words = [*launcher, "--model", "prunevid_qwen", "--model_args", arguments, "--tasks", ",".join(tasks)]
        words += ["--include_path", str(self.work / "tasks"), "--output_path", str(self.work / name), "--log_samples"]
        words += ["--verbosity", "DEBUG", *more]  # without DEBUG lmms-eval ends with 0 whatever happened
        told = " ".join(words).replace(",".join(self.mvbench), "MVBENCH").replace(str(self.work), "WORK")
        set_here = "".join(f"{variable}={value} " for variable, value in variables.items())
        self.commands[name] = f"{set_here}python {told}"
        with (self.work / f"{name}.log").open("w") as log:
            return subprocess.Popen(
                [PYTHON, *words], cwd=self.work, stdout=log, stderr=log, text=True, env=self.environment | variables
            )

    def run(self, name: str, *given: Any, **more: Any) -> Outcome:
        """Run to the end; see `start`."""
        code = self.start(name, *given, **more).wait(timeout=580)
        assert code == 0, f"run {name!r} ended with {code}:\n{self.log(name)[-3000:]}"
        return self.outcome(name, more.get("records") or name)

    def log(self, name: str) -> str:
        """Return what a run said."""
        return (self.work / f"{name}.log").read_text(errors="replace")

    def outcome(self, name: str, records: str) -> Outcome:
        """Read what a run left."""
        answers, prompts = dict[Key, str](), dict[Key, str]()
        for path in sorted((self.work / name).glob("*_samples_*.jsonl")):
            task = path.stem.partition("_samples_")[2]
            for sample in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                key = (task, sample["doc_id"])
                assert key not in answers, f"{key} was answered twice in {name}"
                answers[key], prompts[key] = sample["filtered_resps"], sample["input"]
        (found,) = (self.work / name).glob("*_results.json")
        results = json.loads(found.read_text(encoding="utf-8"))
        scores = {task: row[key] for task, row in results["results"].items() for key in row if "accuracy,none" in key}
        files = (self.work / "records" / records).glob("*.jsonl")
        lines = [json.loads(line) for path in files for line in lines_of(path)]
        kept = {_key(*line["id"].split("/")): line for line in lines}
        return Outcome(answers, prompts, scores, kept, results, self.log(name))


def key_of(identity: str) -> Key:
    """Return where lmms-eval keeps the question that we call ``task/number``."""
    task, number = identity.split("/")
    return _key(folder.name_of(task), number)


def _key(task: str, number: str) -> Key:
    return task, int(number)


def of(answers: dict[Key, str], tasks: Sequence[str]) -> dict[Key, str]:
    """Return the answers of some tasks."""
    return {key: text for key, text in answers.items() if key[0] in tasks}


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file, none where there is no file."""
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
