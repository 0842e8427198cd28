"""``prunevid reproduce``: a published table run anew, with its figures, as theirs, beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from prunevid_qwen.cli.groups import ModelOptions, ShardedEngineOptions
from prunevid_qwen.cli.option import opt
from prunevid_qwen.cli.output import Done, Reporting, outline, typed
from prunevid_qwen.errors import ConfigError, MediaError, quoted

_LESS = "Deviations, told on the page"
TABLES = {
    "prunevid_table6": "PruneVid's Qwen2.5-VL rows: MVBench, Video-MME, EgoSchema.",
    "fastvid": "FastVID's Qwen2.5-VL rows: Video-MME at 768 frames.",
    "flashvid": "FlashVID's Qwen2.5-VL rows at 25 to 10 % of the tokens.",
    "glimpseprune_vstar": "GlimpsePrune on V*: accuracy, and time and memory.",
}
"""The published tables by name, and a line on each; what they are in full, the evaluation package knows."""


@dataclass(frozen=True)
class Less:
    """What a run may have otherwise than the table, which its page says."""

    limit: int | None = opt(None, "So many questions a data set, equally spaced. It may grow.", "INT", _LESS, least=1)
    frames: int | None = opt(None, "Frames a video, at most.", "INT", _LESS)
    min_pixels: int | None = opt(None, "Pixels a frame at least.", "INT", _LESS)
    max_pixels: int | None = opt(None, "Pixels a frame at most.", "INT", _LESS)
    total_pixels: int | None = opt(None, "Pixels a video at most.", "INT", _LESS)
    new_tokens: int | None = opt(None, "Tokens of a timed answer.", "INT", _LESS, least=2)

    def changes(self) -> dict[str, int]:
        """Return those of the protocol."""
        names = ("frames", "min_pixels", "max_pixels", "total_pixels")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class TableModel(ModelOptions):
    """Which model answers instead of the table's."""

    model_path: str = opt("", "Hub id, folder or bundled. Default: the table's.", "ID|FOLDER", "Model", short="-m")
    glimpse_path: str | None = opt(
        None, "The predictor's. Default: the published one.", "ID|FOLDER", "Model", rest=True
    )


def reproduce(
    *,
    published: str,
    data: list[str] | None = opt(
        None, "A data set's folder: --data DIR where the table has one, --data NAME=DIR once for each.", "[NAME=]DIR"
    ),
    only: list[str] | None = opt(None, "Run this data set alone, once for each.", "NAME"),
    setting: list[str] | None = opt(None, "One setting alone, of those below. Default: all.", "NAME"),
    out: Path | None = opt(None, "Default: runs/reproduce/ and the table's name.", "FOLDER"),
    restart: bool = opt(False, "Throw away what the folders hold."),
    dry_run: bool = opt(False, "Check everything up to the model, and say what it would take."),
    page_only: bool = opt(False, "Ask nothing: write the page of what is there."),
    less: Less,
    model: TableModel,
    engine: ShardedEngineOptions,
    output: Reporting,
) -> Done:
    """Run a published table anew and put its figures, as theirs, beside ours."""
    from prunevid_qwen.evaluation.published.reproduce import Reproduction
    from prunevid_qwen.evaluation.published.reproduce import reproduce as answer
    from prunevid_qwen.evaluation.published.table import published_table

    table = published_table(published)
    out = out or Path("runs") / "reproduce" / published
    if model.glimpse_path and table.glimpse is None:
        raise ConfigError(f"no row of {published} has a predictor: leave --glimpse_path out")
    if page_only and (dry_run or restart):
        raise ConfigError("--page_only asks nothing, and so goes with neither --dry_run nor --restart")
    settings = table.settings_called(tuple(setting or ()))
    if less.new_tokens and not any(each.timed for each in settings):
        raise ConfigError(
            f"--new_tokens is the length of timed answers, and nothing of {published} that was asked for is timed: "
            "leave it out"
        )
    if page_only:
        return _pages(table, settings, out)
    folders = _folders(data or (), table)
    shared = folders, tuple(only or ()), less.changes(), less.limit, model.model_path or table.model
    asked = [(each, Reproduction(table, each, *shared, model.glimpse_path, model.loading)) for each in settings]
    if dry_run:  # what is missing is said before anything runs
        return _checked(table, asked)
    output.calm_libraries()
    for _, each in asked:
        each.read()
    number, of = engine.share
    with (
        output.keeping(out),
        output.bars() as bars,
        engine.opened(model.device, output.verbose, bars.tell) as (opened, device),  # one of all settings, one model
    ):
        for own, each in asked:
            prefix = "" if len(table.settings) == 1 else f"{own.name}, "

            def tell(what: str, done: int, total: int, prefix: str = prefix) -> None:
                bars.tell(f"{prefix}{what}", done, total)

            run = replace(each, device=device)
            if not own.timed:
                answer(run, out / own.name, opened, engine.share, restart, tell, typed())
            elif number == 0:  # times are of one process: the first share's
                if engine.engine == "ray":
                    output.note(f"note: {own.name} is measured by this process, on this machine's device")
                from prunevid_qwen.evaluation.published.timing import measure

                [only_set] = run.sets
                tokens = less.new_tokens or own.new_tokens
                measure(run, out / own.name / only_set.name, tokens, restart, tell, typed())
    if of > 1:
        output.note(
            f"share {number} of {of} is answered; when all are: prunevid reproduce {published} --page_only --out {out}"
        )
        return Done({"out": str(out), "shard": [number, of]})
    return _pages(table, settings, out)


def explained(name: str) -> str:
    """Return what stands behind the options of a table's command: its figures, settings and data sets."""
    from prunevid_qwen.evaluation.published.estimate import describe
    from prunevid_qwen.evaluation.published.table import published_table

    example = f"\n[bold]Examples[/bold]\n  prunevid reproduce {name} --data ~/data/SET --dry_run\n"
    return escape("\n".join(describe(published_table(name)))) + "\n" + example


def _pages(table: Any, settings: Sequence[Any], out: Path) -> Done:
    """Write the page of each setting."""
    from prunevid_qwen.evaluation.published.table_page import PAGE, write_page

    told = {each.name: write_page(table, each, out / each.name) for each in settings}

    def show() -> None:
        for name, found in told.items():
            if "asked" in found:
                states = [f"{each['title']}: {each['state']}" for each in found["asked"]]
            else:
                states = [f"{found['images']} of {found['of']} images were measured"]
            for state in states:
                typer.echo(f"{name}, {state}")
            if found["deviations"]:
                count = len(found["deviations"])
                typer.echo(f"note: {count} deviations from the published setting; the page names them")
            typer.echo(f"page: {out / name / PAGE}")

    return Done(told, show)


def _checked(table: Any, asked: Sequence[tuple[Any, Any]]) -> Done:
    """Say what would be run, what it would take, and of which data set nothing can be read."""
    from prunevid_qwen.evaluation.published.estimate import cost_lines, figure_lines
    from prunevid_qwen.evaluation.published.reproduce import check

    told: dict[str, Any] = {
        setting.name: {"asked": check(each), "cost": cost_lines(setting)} for setting, each in asked
    }
    unread = [
        f"setting {name}: none of the media of {each['title']} can be read; what is wrong, and what to do: "
        f"prunevid eval check {each['dataset']} --data {each['folder']}"
        for name, found in told.items()
        for each in found["asked"]
        if each["first"] is None
    ]

    def show() -> None:
        for setting, _ in asked:
            typer.echo(f"{table.name}, setting {setting.name}: {table.paper}, {table.table}")
            for each in told[setting.name]["asked"]:
                typer.echo(_planned(each))
            typer.echo("\n  ".join(["published, theirs:", *figure_lines(setting)]))
            typer.echo("\n  ".join(["what the whole of it would take:", *told[setting.name]["cost"]]) + "\n")
        if not unread:
            typer.echo("all else is there up to the model; leave out --dry_run to run")

    for each in unread:
        typer.echo(f"error: {each}", err=True)
    return Done(told, show, MediaError.exit_code if unread else 0)


def _planned(each: dict[str, Any]) -> str:
    """Return what would be asked of a data set, as lines."""
    part = "" if each["of"] == each["published"] else f", which has {each['published']} as published"
    configs = ", ".join(each["configs"])
    told = {"not on this model": each["not on this model"], "protocol": each["protocol"], "model": each["model"]}
    if each["missing"]:
        told["missing"] = (
            f"{each['missing']} media, whose questions will have no answer; the first is {each['first missing']}; all: "
            f"prunevid eval check {each['dataset']} --data {each['folder']}"
        )
    told["first media read"] = each["first"] or "none could be read"
    head = (
        f"{each['title']}: {each['questions']} of {each['of']} questions{part}; {each['answers']} answers by {configs}"
    )
    return f"{head}\n{outline({name: value for name, value in told.items() if value}, '  ')}"


def _folders(given: Sequence[str], table: Any) -> dict[str, Path]:
    found: dict[str, Path] = {}
    own = {each.data.dataset for setting in table.settings for each in setting.sets}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals and len(own) == 1 and len(given) == 1 and text:
            name, folder = next(iter(own)), text
        elif not (equals and name and folder):
            raise ConfigError(f"--data is NAME=FOLDER, such as mvbench=~/data/MVBench; got {quoted(text)}")
        if name in found:
            raise ConfigError(f"--data names {name} twice: {found[name]} and {folder}")
        found[name] = Path(folder).expanduser()
    return found
