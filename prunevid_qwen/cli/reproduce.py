"""``prunevid reproduce NAME``: one command for all published tables. Loads torch only when it runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from prunevid_qwen.cli.engines import ENGINES, check_engine, shard_of
from prunevid_qwen.cli.help import PanelledCommand
from prunevid_qwen.cli.model_options import MODEL, Attention, Device, Dtype, LocalFilesOnly, Revision
from prunevid_qwen.cli.reproduce_request import ReproduceRequest
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.published.estimate import describe
from prunevid_qwen.evaluation.published.table import PublishedTable, published_table

_WHAT, _HOW, _LESS = "What is run", "How it runs", "Deviations, told on the page"
# dashes are accepted for underscores, as in `prunevid`
_SETTINGS = {
    "token_normalize_func": lambda token: token.replace("-", "_"),
    "help_option_names": ["--help", "-h"],
}
_EPILOG = """
[bold]Exit codes[/bold]
  0 done, whatever the coverage; 2 bad option or missing data set; 3 environment;
  4 --dry_run could read none of a data set's media;
  5 pruning was asked for and not applied;
  130 ended by Ctrl-C, 129 by a closed terminal (SIGHUP), 143 by SIGTERM: the same command goes on
"""


def asked_of(name: str, words: Sequence[str]) -> Any:
    """Read the words after a table's name; return the request, or an exit code where ``--help`` was all.

    Raises:
        ConfigError: there is no such table.
    """
    app = typer.Typer(context_settings=_SETTINGS, add_completion=False, rich_markup_mode="rich")
    table = published_table(name)
    epilog = escape("\n".join(describe(table))) + "\n" + _EPILOG
    text = f"Run a published table anew and put its figures, as theirs, beside ours: {table.table}."
    app.command(name, help=text, epilog=epilog, cls=PanelledCommand)(_command(table))
    return typer.main.get_command(app).main(list(words), f"prunevid reproduce {name}", standalone_mode=False)


def _option(name: str, text: str, metavar: str | None, panel: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", help=text, metavar=metavar, rich_help_panel=panel, **more)


def _command(table: PublishedTable) -> Any:
    """Return the command of a table: `_asked` without its first parameter, as typer reads signatures."""

    def command(**given: Any) -> ReproduceRequest:
        return _asked(table, **given)

    parameters = list(inspect.signature(_asked, eval_str=True).parameters.values())[1:]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _asked(
    table: PublishedTable,
    data: Annotated[
        list[str] | None,
        _option("data", "Folder of a data set, once for each: mvbench, videomme, ...", "NAME=FOLDER", _WHAT),
    ] = None,
    only: Annotated[list[str] | None, _option("only", "Run this data set alone, once for each.", "NAME", _WHAT)] = None,
    setting: Annotated[
        list[str] | None, _option("setting", "One setting alone, of those below. Default: all.", "NAME", _WHAT)
    ] = None,
    out: Annotated[
        Path | None, _option("out", "Default: runs/reproduce/ and the table's name.", "FOLDER", _HOW)
    ] = None,
    engine: Annotated[
        str, _option("engine", "local: this machine's one model. ray: a cluster's.", "|".join(ENGINES), _HOW)
    ] = "local",
    workers: Annotated[
        int | None,
        _option(
            "workers",
            "Processes that read ahead; 0: a thread. Default: the CPUs less one, 4 at most.",
            "INT",
            _HOW,
            min=0,
        ),
    ] = None,
    ray_address: Annotated[
        str | None, _option("ray_address", "auto, or a cluster's. Default: one of this machine.", "ADDRESS", _HOW)
    ] = None,
    replicas: Annotated[
        int | None, _option("replicas", "Models on the cluster. Default: one a GPU.", "INT", _HOW, min=1)
    ] = None,
    shard: Annotated[
        str, _option("shard", "This process's share, from 0/N; then once --page_only.", "I/N", _HOW)
    ] = "0/1",
    restart: Annotated[bool, _option("restart", "Throw away what the folders hold.", None, _HOW)] = False,
    dry_run: Annotated[
        bool, _option("dry_run", "Check everything up to the model, and say what it would take.", None, _HOW)
    ] = False,
    page_only: Annotated[
        bool, _option("page_only", "Ask nothing: write the page of what is there.", None, _HOW)
    ] = False,
    as_json: Annotated[bool, _option("json", "The figures as one JSON object on stdout.", None, _HOW)] = False,
    verbose: Annotated[bool, _option("verbose", "Log; tracebacks of errors.", None, _HOW)] = False,
    model_path: Annotated[
        str | None, _option("model_path", "Hub id, folder or bundled. Default: the table's.", "ID|FOLDER", MODEL)
    ] = None,
    glimpse_path: Annotated[
        str | None,
        _option("glimpse_path", "The predictor's. Default: the published one.", "ID|FOLDER", MODEL),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    attn_implementation: Attention = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
    limit: Annotated[
        int | None,
        _option("limit", "So many questions a data set, equally spaced. It may grow.", "INT", _LESS, min=1),
    ] = None,
    frames: Annotated[int | None, _option("frames", "Frames a video, at most.", "INT", _LESS)] = None,
    min_pixels: Annotated[int | None, _option("min_pixels", "Pixels a frame at least.", "INT", _LESS)] = None,
    max_pixels: Annotated[int | None, _option("max_pixels", "Pixels a frame at most.", "INT", _LESS)] = None,
    total_pixels: Annotated[int | None, _option("total_pixels", "Pixels a video at most.", "INT", _LESS)] = None,
    new_tokens: Annotated[int | None, _option("new_tokens", "Tokens of a timed answer.", "INT", _LESS, min=2)] = None,
) -> ReproduceRequest:
    """Say what is asked for; nothing runs here."""
    if glimpse_path and table.glimpse is None:
        raise ConfigError(f"no row of {table.name} has a predictor: leave --glimpse_path out")
    changes = {"frames": frames, "min_pixels": min_pixels, "max_pixels": max_pixels, "total_pixels": total_pixels}
    return ReproduceRequest(
        table=table,
        settings=tuple(setting or ()),
        data=_folders(data or ()),
        only=tuple(only or ()),
        out=out or Path("runs") / "reproduce" / table.name,
        engine=engine,
        workers=check_engine(engine, workers, ray_address, replicas),
        ray_address=ray_address,
        replicas=replicas,
        shard=shard_of(shard),
        restart=restart,
        dry_run=dry_run,
        page_only=page_only,
        as_json=as_json,
        verbose=verbose,
        model_path=model_path or table.model,
        glimpse_path=glimpse_path,
        loading={
            "device": device, "dtype": dtype, "attn_implementation": attn_implementation, "revision": revision,
            "local_files_only": local_files_only,
        },
        limit=limit,
        changes={name: value for name, value in changes.items() if value is not None},
        new_tokens=new_tokens,
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )  # fmt: skip


def _folders(given: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (equals and name and folder):
            raise ConfigError(f"--data is NAME=FOLDER, such as mvbench=~/data/MVBench; got {quoted(text)}")
        if name in found:
            raise ConfigError(f"--data names {name} twice: {found[name]} and {folder}")
        found[name] = Path(folder).expanduser()
    return found
