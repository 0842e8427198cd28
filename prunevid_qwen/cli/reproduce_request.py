"""A call of ``prunevid reproduce``: the runs of its settings, their progress and their pages."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from prunevid_qwen.cli.bars import Bars
from prunevid_qwen.cli.engines import engine_of
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.published.estimate import cost_lines, figure_lines
from prunevid_qwen.evaluation.published.table import PublishedTable, Setting

if TYPE_CHECKING:
    from prunevid_qwen.evaluation.published.reproduce import Reproduction


@dataclass(frozen=True)
class ReproduceRequest:
    """One call of ``prunevid reproduce``.

    Args:
        table: whose figures.
        settings: names of those to run; () for all.
        data, only, changes, limit, model_path, glimpse_path, loading: as in `Reproduction`.
        out: folder; each setting has one in it, and each data set one in that.
        engine, workers, ray_address, replicas, shard, restart, dry_run: as in ``prunevid eval run``.
        page_only: ask nothing, write the page.
        new_tokens: of a timed answer; None for the setting's.
        as_json, verbose: how to report.
        command: what was typed.
    """

    table: PublishedTable
    settings: tuple[str, ...]
    data: dict[str, Path]
    only: tuple[str, ...]
    out: Path
    engine: str = "local"
    workers: int | None = 1
    ray_address: str | None = None
    replicas: int | None = None
    shard: tuple[int, int] = (0, 1)
    restart: bool = False
    dry_run: bool = False
    page_only: bool = False
    as_json: bool = False
    verbose: bool = False
    model_path: str = "bundled"
    glimpse_path: str | None = None
    loading: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    new_tokens: int | None = None
    command: str = ""

    def run(self) -> int:
        """Run the settings, write their pages, and return the exit code."""
        logging.basicConfig(level=logging.INFO if self.verbose else logging.ERROR, format="%(name)s: %(message)s")
        quiet = contextlib.redirect_stdout(sys.stderr) if self.as_json else contextlib.nullcontext()
        with quiet:
            told = self._told()
        if self.as_json:
            typer.echo(json.dumps(told, ensure_ascii=False))
        return 0

    def _told(self) -> dict[str, Any]:
        settings = self.table.settings_called(self.settings)
        if self.new_tokens and not any(setting.timed for setting in settings):
            raise ConfigError(
                f"--new_tokens is the length of timed answers, and nothing of {self.table.name} that was asked for is "
                "timed: leave it out"
            )
        if self.page_only and (self.dry_run or self.restart):
            raise ConfigError("--page_only asks nothing, and so goes with neither --dry_run nor --restart")
        if self.page_only:
            return {setting.name: self._page(setting) for setting in settings}
        asked = [
            (setting, self._asked(setting)) for setting in settings
        ]  # what is missing is said before anything runs
        if self.dry_run:
            told = {setting.name: self._dry_run(setting, each) for setting, each in asked}
            unread = [(name, each) for name, found in told.items() for each in found["asked"] if each["first"] is None]
            if unread:
                name, each = unread[0]
                raise MediaError(
                    f"setting {name}: none of the media of {each['title']} can be read; what is wrong, and what to do: "
                    f"prunevid eval check {each['dataset']} {each['folder']}"
                )
            if not self.as_json:
                typer.echo("all else is there up to the model; leave out --dry_run to run")
            return told
        if not self.verbose:
            from transformers.utils import logging as library

            library.set_verbosity_error()
            library.disable_progress_bar()
        for _, each in asked:
            each.read()
        how = (self.engine, self.workers, self.ray_address, self.replicas, self.loading.get("device"), self.verbose)
        try:
            with Bars() as bars, engine_of(*how, bars.tell) as (engine, device):  # one of all settings, and one model
                for setting, each in asked:
                    self._run(setting, replace(each, device=device), engine, bars)
        except KeyboardInterrupt:
            typer.echo(f"what was answered is in {self.out}: the same command goes on where it was", err=True)
            raise
        if self.shard[1] > 1:
            typer.echo(f"share {self.shard[0]} of {self.shard[1]} is answered; when all are, run it once more "
                       f"with --page_only --out {self.out}", err=True)  # fmt: skip
            return {"out": str(self.out), "shard": list(self.shard)}
        return {setting.name: self._page(setting) for setting in settings}

    def _asked(self, setting: Setting) -> Reproduction:
        from prunevid_qwen.evaluation.published.reproduce import Reproduction

        return Reproduction(
            self.table, setting, self.data, self.only, self.changes, self.limit, self.model_path, self.glimpse_path,
            self.loading,
        )  # fmt: skip

    def _run(self, setting: Setting, asked: Reproduction, engine: Any, bars: Bars) -> None:
        from prunevid_qwen.evaluation.published.reproduce import reproduce

        folder = self.out / setting.name

        def tell(what: str, done: int, total: int) -> None:
            bars.tell(what if len(self.table.settings) == 1 else f"{setting.name}, {what}", done, total)

        if setting.timed:
            from prunevid_qwen.evaluation.published.timing import measure

            if self.shard[0]:
                return  # times are of one process: the first share's
            if self.engine == "ray":
                typer.echo(f"note: {setting.name} is measured by this process, on this machine's device", err=True)
            [each] = asked.sets
            tokens = self.new_tokens or setting.new_tokens
            measure(asked, folder / each.name, tokens, self.restart, tell, self.command)
        else:
            reproduce(asked, folder, engine, self.shard, self.restart, tell, self.command)

    def _page(self, setting: Setting) -> dict[str, Any]:
        from prunevid_qwen.evaluation.published.page import PAGE, write_page
        from prunevid_qwen.evaluation.published.timing_page import write_timing_page

        folder = self.out / setting.name
        if setting.timed:
            found = write_timing_page(self.table, setting, folder)
            states = [f"{found['images']} of {found['of']} images were measured"]
        else:
            found = write_page(self.table, setting, folder)
            states = [f"{each['title']}: {each['state']}" for each in found["asked"]]
        if not self.as_json:
            for state in states:
                typer.echo(f"{setting.name}, {state}")
            if found["deviations"]:
                typer.echo(
                    f"note: {len(found['deviations'])} deviations from the published setting; the page names them"
                )
            typer.echo(f"page: {folder / PAGE}")
        return found

    def _dry_run(self, setting: Setting, asked: Reproduction) -> dict[str, Any]:
        from prunevid_qwen.evaluation.published.reproduce import check

        found = check(asked)
        if not self.as_json:
            typer.echo(f"{self.table.name}, setting {setting.name}: {self.table.paper}, {self.table.table}")
            for each in found:
                _show(each)
            typer.echo("published, theirs:")
            for line in figure_lines(setting):
                typer.echo(f"  {line}")
            typer.echo("what the whole of it would take:")
            for line in cost_lines(setting):
                typer.echo(f"  {line}")
            typer.echo("")
        return {"asked": found, "cost": cost_lines(setting)}


def _show(each: dict[str, Any]) -> None:
    part = "" if each["of"] == each["published"] else f", which has {each['published']} as published"
    typer.echo(f"{each['title']}: {each['questions']} of {each['of']} questions{part}; {each['answers']} answers by "
               f"{', '.join(each['configs'])}")  # fmt: skip
    for name, why in each["not on this model"].items():
        typer.echo(f"  not on this model: {name}: {why}")
    typer.echo(f"  protocol: {', '.join(f'{name} {value}' for name, value in each['protocol'].items())}")
    typer.echo(f"  model: {each['model']}")
    if each["missing"]:
        typer.echo(
            f"  missing: {each['missing']} media, whose questions will have no answer; the first is "
            f"{each['first missing']}; all: prunevid eval check {each['dataset']} {each['folder']}"
        )
    typer.echo(f"  first media read: {each['first'] or 'none could be read'}")
