"""A call of ``prunevid eval run``: the run, its progress and its tables. Loads torch only when it runs."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.bars import Bars
from prunevid_qwen.cli.engines import engine_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import MediaError

_SHOWN = 5  # missing files; `prunevid eval check` lists all


@dataclass(frozen=True)
class RunRequest:
    """One call of ``prunevid eval run``.

    Args:
        dataset, data, part, limit: what is asked.
        out: folder of the results.
        protocol: name of a preset; None is the data set's default.
        choices: over those of the preset.
        configs: name and config of each.
        engine: "local" or "ray".
        workers: processes that read ahead; None is all that are free, under Ray.
        shard: which part of the run, of how many.
        ray_address, replicas: of the cluster.
        model_path, loading: as in ``prunevid ask``.
        restart: throw away what the folder holds.
        dry_run: stop before the model.
        as_json, verbose: how to report.
        command: what was typed.
    """

    dataset: str
    data: Path
    out: Path
    protocol: str | None
    choices: dict[str, Any]
    configs: tuple[tuple[str, PruneVidConfig], ...]
    part: str | None = None
    limit: int | None = None
    engine: str = "local"
    workers: int | None = 1
    shard: tuple[int, int] = (0, 1)
    ray_address: str | None = None
    replicas: int | None = None
    model_path: str = "bundled"
    loading: dict[str, Any] = field(default_factory=dict)
    restart: bool = False
    dry_run: bool = False
    as_json: bool = False
    verbose: bool = False
    command: str = ""

    def run(self) -> int:
        """Answer what is missing, write the tables where all shares are done, and return the exit code."""
        logging.basicConfig(level=logging.INFO if self.verbose else logging.ERROR, format="%(name)s: %(message)s")
        quiet = contextlib.redirect_stdout(sys.stderr) if self.as_json else contextlib.nullcontext()
        with quiet:
            told = self._dry_run() if self.dry_run else self._evaluate()
        if self.as_json:
            typer.echo(json.dumps(told, ensure_ascii=False))
        return 0

    def asked(self) -> Any:
        """Return the run."""
        from prunevid_qwen.evaluation.protocol.protocol import protocol_for
        from prunevid_qwen.evaluation.tasks.benchmark import BenchmarkRun

        return BenchmarkRun(
            self.dataset,
            self.data,
            protocol_for(self.dataset, self.protocol, **self.choices),
            self.configs,
            self.part,
            self.limit,
            self.model_path,
            self.loading,
        )

    def _evaluate(self) -> dict[str, Any]:
        from transformers.utils import logging as library

        from prunevid_qwen.evaluation.tasks.benchmark import answer_run

        run = self.asked()
        data = run.read()
        self._say_what_is_missing(data)
        if self.model_path == "bundled":
            typer.echo("note: the bundled toy answers, which knows moving shapes alone: pass --model_path", err=True)
        if not self.verbose:
            library.set_verbosity_error()
            library.disable_progress_bar()
        try:
            how = (self.engine, self.workers, self.ray_address, self.replicas, self.loading.get("device"), self.verbose)
            with Bars() as bars, engine_of(*how, bars.tell) as (engine, device):
                run = replace(run, device=device)
                answer_run(self.out, run, engine, self.shard, self.restart, bars.tell, self.command, data)
        except KeyboardInterrupt:
            typer.echo(f"what was answered is in {self.out}: the same command goes on where it was", err=True)
            raise
        if self.shard[1] > 1:
            typer.echo(f"share {self.shard[0]} of {self.shard[1]} is answered; when all are: "
                       f"prunevid eval tables {self.out}", err=True)  # fmt: skip
            return {"out": str(self.out), "shard": list(self.shard)}
        if json.loads((self.out / "run.json").read_text(encoding="utf-8"))["manifest"] is None:
            names = list(json.loads((self.out / "run.json").read_text(encoding="utf-8"))["configs"])
            whose = f" --config '{names[-1]}'" if len(names) > 1 else ""
            typer.echo(f"answered; their authors score them: prunevid eval export {self.out}{whose}")
            return {"out": str(self.out)}
        from prunevid_qwen.cli.eval_tables import show_tables

        return show_tables(self.out, self.as_json)

    def _say_what_is_missing(self, data: Any) -> None:
        from prunevid_qwen.evaluation.tasks.benchmark import spread

        asked = spread(data.records, self.limit)
        paths = {media.path for record in asked for media in record.media}
        missing = sorted(path for path in paths if not Path(path).exists())
        for path in missing[:_SHOWN]:
            typer.echo(f"missing: {path}", err=True)
        if len(missing) == len(paths):
            raise MediaError(
                f"none of the {len(paths)} media that would be asked about is there; what to do: prunevid eval check "
                f"{self.dataset} {self.data}"
            )
        if missing:
            more = f" ({len(missing) - _SHOWN} more are not shown)" if len(missing) > _SHOWN else ""
            typer.echo(
                f"{len(missing)} of {len(paths)} media are missing{more}; scores will be of the other questions. "
                f"All of them, and what to do: prunevid eval check {self.dataset} {self.data}",
                err=True,
            )

    def _dry_run(self) -> dict[str, Any]:
        """Do everything up to the model: questions, protocol, configs, the model's files, one video."""
        from prunevid_qwen.evaluation.engine.reading import read_media
        from prunevid_qwen.evaluation.tasks.benchmark import spread

        run = self.asked()
        data = run.read()
        self._say_what_is_missing(data)
        asked = spread(data.records, self.limit)
        reading, options = run.reading(), run.options(data)
        found: dict[str, Any] = {"video": None}
        for record in asked:
            read = read_media(reading, record.media)
            if read.error is None:
                shapes = [list(medium.frames.shape[:3]) for medium in read.media]
                found = {"video": record.media[0].path, "frames, height, width": shapes, "seconds": read.seconds}
                break
        told = {
            "questions": len(asked),
            "answers": len(asked) * len(run.configs),
            "configs": [name for name, _ in run.configs],
            "options": options,
            "first": found,
        }
        if not self.as_json:
            typer.echo(f"{data.title} ({data.part}): {told['questions']} questions, {told['answers']} answers by "
                       f"{', '.join(told['configs'])}")  # fmt: skip
            for name, value in options.items():
                typer.echo(f"  {name}: {value}")
            typer.echo(f"first media read: {found}")
            typer.echo("all is there up to the model; leave out --dry_run to run")
        return told
