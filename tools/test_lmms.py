"""Run lmms-eval's real MVBench tasks through our plug-in, offline: ``make test-lmms``.

lmms-eval gets an environment of its own, ``.venv-lmms`` (2.4 GB; the registry is needed the first time). It runs on a
miniature MVBench with the bundled model: in one process and in two, killed and resumed, with every kind of content. Its
answers, prompts and scores are then held against those of our own engine, which runs in this environment. Writes
``eval/results/lmms_eval.json`` when all of it holds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmms_folder as folder
from lmms_harness import PYTHON, Harness, Key, Outcome, key_of, lines_of, of

from prunevid_qwen.config import get_config
from prunevid_qwen.evaluation.engine.local import run_here
from prunevid_qwen.evaluation.engine.task import Task
from prunevid_qwen.evaluation.protocol.harness_scorers import SCORERS
from prunevid_qwen.evaluation.protocol.protocol import protocol_named
from prunevid_qwen.evaluation.protocol.score_summary import Manifest, summarise
from prunevid_qwen.evaluation.protocol.scorers import Output
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.evaluation.tasks.runs import BenchmarkQuestion, BenchmarkRun
from prunevid_qwen.receipt import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "eval" / "results" / "lmms_eval.json"
PREFILL = "Best option: ("
"""With it the bundled model answers by a letter, without it by a word: lmms-eval's scorer counts letters alone."""

KNOBS = {"keep_ratio": 0.1}
READING = {"sampler": "fps", "fps": 3.0, "seconds_per_grid": "range"}
SAME = ("indices", "timestamps", "seconds_per_grid", "frame_pixels", "size", "resized", "padded")
"""Facts of a video that must be the same here and there: which frames, of what size, and what the model is told."""


class Prefilled(BenchmarkQuestion):
    """A question of ours whose answer is begun, as the plug-in's ``prefill`` does."""

    def messages(self, items: Any, media: Any) -> list[dict[str, Any]]:
        """Write it."""
        return [*super().messages(items, media), {"role": "assistant", "content": PREFILL}]


class Ours:
    """What our own engine makes of the same folder, media read ahead by a thread instead of a process.

    Args:
        harness: whose folder.
        kind: of question.
        options: of the config, over the paper's.
        reading: of the protocol, over that named "lmms".
    """

    def __init__(
        self, harness: Harness, kind: type[BenchmarkQuestion], options: dict[str, Any], reading: dict[str, Any]
    ) -> None:
        self.protocol = protocol_named("lmms", "mvbench", **reading)
        config = get_config("paper").replace(**options)
        run = BenchmarkRun("mvbench", harness.data, self.protocol, (("ours", config),))
        self.data = run.read()
        tasks = [Task(record.media, ((kind(record, self.protocol), ("ours",)),)) for record in self.data.records]
        self.lines = list(run_here(tasks, run.reading(), run.answering().load().answer, workers=0))

    def prompts(self) -> dict[Key, str]:
        """Return the users' texts."""
        return {key_of(record.id): self.protocol.text.write(record) for record in self.data.records}

    def compare(self, theirs: Outcome) -> dict[str, Any]:
        """Hold every raw answer, count of tokens, frame taken and score against a run of lmms-eval's."""
        assert len(self.lines) == 60
        for line in self.lines:
            key = key_of(line["id"])
            other = theirs.records[key]
            assert theirs.answers[key] == line["raw"] == other["raw"], (
                f"{key}: {theirs.answers[key]!r}, {line['raw']!r}"
            )
            assert other["tokens"] == line["tokens"], f"{key}: {other['tokens']}, ours {line['tokens']}"
            for mine, read in zip(line["media"], other["media"], strict=True):
                assert [mine[name] for name in SAME] == [read[name] for name in SAME], f"{key}: {read}, ours {mine}"
        return {"answers": len(self.lines), "equal": True, "scores": self._scores(theirs)}

    def _scores(self, theirs: Outcome) -> dict[str, float]:
        data = self.data
        manifest = Manifest.of(data.records, data.name, data.by, data.published)
        table = summarise(self.lines, manifest, self.protocol, ["ours"])
        ours = {row["group"]: row["columns"]["lmms"] for row in table["rows"] if row["axis"] == "task"}
        assert len(ours) == 20
        for task, found in ours.items():
            score = 100 * (found["score"] or 0.0)  # of no counted answer: lmms-eval says 0
            assert abs(score - theirs.scores[folder.name_of(task)]) < 1e-9, f"{task}: {score}, {theirs.scores}"
        return {task: theirs.scores[folder.name_of(task)] for task in ours}


class Checks:
    """The checks, in order; each returns what the report says of it."""

    def __init__(self, harness: Harness) -> None:
        self.harness, self.whole = harness, [*harness.mvbench, "mixed"]
        self.one: Outcome = None  # type: ignore[assignment]  # of the first check

    def one_process(self) -> dict[str, Any]:
        """One process answers everything that can be answered, and reports tokens and throughput."""
        self.one = self.harness.run("one", "config=paper", self.whole)
        said = self.one.answers
        assert len(said) == 60 + folder.MIXED
        answerable = [said["mixed", number] for number in range(folder.MIXED - 3)]
        assert all(answerable), f"no answer where there is nothing wrong: {answerable}"
        assert [said["mixed", folder.MIXED - 3 + number] for number in range(3)] == ["", "", ""]
        for reason in ("SystemExit: video path: gone.mp4", "broken.mp4", "'audio'"):
            assert reason in self.one.log, f"the log does not say {reason!r}"
        assert len(set(said.values())) > 5, "the answers are all alike: nothing that follows could fail"
        speed = self.one.results["throughput"]
        assert speed["avg_errors"] == 3 and 0 < speed["avg_kept_ratio"] < 0.5 and speed["avg_prefill_seconds"] > 0
        tokens = self.one.results["efficiency"]["by_task"][self.harness.mvbench[0]]
        assert tokens["docs_with_token_counts"] == 3 and tokens["total_input_tokens"] > 3000
        return {"answers": len(said), "different": len(set(said.values())), "errors": 3, "throughput": speed}

    def two_processes(self) -> dict[str, Any]:
        """Two processes under torchrun and gloo give the answers and scores of one."""
        two = self.harness.run("two", "config=paper", self.whole, processes=2)
        written = list((self.harness.work / "records" / "two").glob("*.jsonl"))
        assert "Running on rank 1" in two.log and len(written) == 2
        assert two.answers == self.one.answers
        assert two.scores == self.one.scores
        return {"answers": len(two.answers), "equal": True}

    def batches(self) -> dict[str, Any]:
        """batch_size 2 gives the answers of batch_size 1."""
        tasks = self.harness.mvbench[:4]
        two = self.harness.run("batch", "config=paper", tasks, "--batch_size", "2")
        assert two.answers == of(self.one.answers, tasks)
        return {"answers": len(two.answers), "equal": True}

    def killed_and_resumed(self) -> dict[str, Any]:
        """A run that is killed with -9 goes on after its last stored answer."""
        harness = self.harness
        given = ("config=paper", harness.mvbench, "--use_cache", str(harness.work / "cache"))
        same: dict[str, Any] = {"records": "resumed", "LMMS_CACHE_RUN_ID": "resumed"}
        process = harness.start("killed", *given, **same)
        stored = harness.work / "cache" / "runs" / "resumed" / "rank_0.audit.jsonl"
        records = harness.work / "records" / "resumed" / "rank_0.jsonl"
        while len(lines_of(stored)) < 17:
            assert process.poll() is None, f"it ended before it was killed:\n{harness.log('killed')[-3000:]}"
            time.sleep(0.05)
        process.kill()
        process.wait()
        before, made = len(lines_of(stored)), len(lines_of(records))
        assert 17 <= before < 60, f"{before} of 60 answers were stored when it was killed: not one by one"
        assert made - before in (0, 1)
        assert not list((harness.work / "killed").glob("*_results.json"))
        resumed = harness.run("resumed", *given, **same)
        answered = len(lines_of(records)) - made
        assert f"{before}/60 cache hits" in resumed.log
        assert answered == 60 - before, f"{before} were stored, {answered} were answered again"
        assert resumed.answers == of(self.one.answers, harness.mvbench)
        assert resumed.scores == {task: self.one.scores[task] for task in harness.mvbench}
        return {"stored_at_the_kill": before, "answered_after": answered, "equal": True}

    def unknown_argument(self) -> dict[str, Any]:
        """An argument that nobody knows is refused, and the nearest is offered."""
        process = self.harness.start("unknown", "keep_ration=0.4", self.harness.mvbench[:1])
        code, log = process.wait(timeout=300), self.harness.log("unknown")
        assert code == 1 and "got 'keep_ration'; did you mean 'keep_ratio'?" in log, log[-3000:]
        return {"exit_code": code}

    def our_engine(self) -> dict[str, Any]:
        """Our engine, asked directly, writes the same prompts, takes the same frames and tokens, says the same."""
        ours = Ours(self.harness, BenchmarkQuestion, {}, {})
        assert ours.prompts() == of(self.one.prompts, self.harness.mvbench)
        return ours.compare(self.one)

    def letters(self) -> dict[str, Any]:
        """The same with arguments of every kind, and answers by letter: scores are not all nought."""
        given = ",".join(f"{name}={value}" for name, value in {**KNOBS, **READING, "prefill": PREFILL}.items())
        theirs = self.harness.run("letters", f"config=paper,{given}", self.harness.mvbench)
        found = Ours(self.harness, Prefilled, KNOBS, READING).compare(theirs)
        assert len(set(found["scores"].values())) > 2, f"scores that are all alike say nothing: {found['scores']}"
        return found

    def scorers(self) -> dict[str, Any]:
        """Our columns read every string of the tests as lmms-eval's own functions do."""
        from tests.test_protocol_scorers import OPTIONS, STRINGS

        options = [*OPTIONS, "none of them"]
        strings = [*STRINGS, *sorted(set(self.one.answers.values()))]
        done = subprocess.run(
            [PYTHON, ROOT / "tools" / "lmms_scorers.py"],
            input=json.dumps({"strings": strings, "options": options}),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        theirs = json.loads(done.stdout.splitlines()[-1])
        for name, read in theirs.items():
            for text, (letters, then) in read.items():
                ours = SCORERS[name](Output(text, tuple(options)))
                assert (ours.accepted, ours.then) == (letters, then), f"{name} of {text!r}: {ours}, lmms-eval {letters}"
        return {"strings": len(strings), "scorers": sorted(theirs), "equal": True}


@contextmanager
def work_folder(kept: str | None) -> Iterator[Path]:
    """Give an empty folder: a temporary one, or one that stays to be looked at."""
    if kept is None:
        with tempfile.TemporaryDirectory() as path:
            yield Path(path).resolve()
    else:
        shutil.rmtree(kept, ignore_errors=True)
        Path(kept).mkdir(parents=True)
        yield Path(kept).resolve()


def main() -> int:
    """Run the checks; ``--keep FOLDER`` keeps what they wrote."""
    kept = sys.argv[sys.argv.index("--keep") + 1] if "--keep" in sys.argv else None
    import torch

    torch.set_num_threads(1)  # as lmms-eval's processes
    report: dict[str, Any] = {}
    with work_folder(kept) as work:
        harness = Harness(work)
        checks = Checks(harness)
        ordered: list[Callable[[], dict[str, Any]]] = [
            checks.one_process, checks.two_processes, checks.batches, checks.killed_and_resumed,
            checks.unknown_argument, checks.our_engine, checks.letters, checks.scorers,
        ]  # fmt: skip
        for check in ordered:
            began = time.monotonic()
            found = check()
            seconds = round(time.monotonic() - began, 1)
            report[check.__name__] = {"what": (check.__doc__ or "").strip(), **found, "seconds": seconds}
            print(f"ok {seconds:6.1f} s  {(check.__doc__ or '').strip()}", flush=True)
        names = ("av", "accelerate", "datasets", "lmms_eval", "torch", "transformers")
        code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {names}}}))"
        there = json.loads(subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout)
        whole = {
            "what": "lmms-eval's MVBench tasks on a miniature, with the bundled model: our plug-in, and our own engine",
            "command": " ".join(["python", "tools/test_lmms.py", *sys.argv[1:]]),
            "lmms_eval": there,
            "ours": versions(),
            **surroundings(),
            "commands": harness.commands,
            "checks": report,
        }
    RESULTS.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"All {len(report)} hold: {RESULTS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
