"""``prunevid eval run``: what is asked for, checked without torch."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from prunevid_qwen.cli.engines import ENGINES, check_engine, shard_of
from prunevid_qwen.cli.eval_run_request import RunRequest
from prunevid_qwen.cli.full_names import PARTS
from prunevid_qwen.cli.help import PanelledCommand
from prunevid_qwen.cli.model_options import MODEL, Attention, Device, Dtype, LocalFilesOnly, Revision
from prunevid_qwen.cli.options import field_help, named_config, option_value, takes_config_options
from prunevid_qwen.config import PruneVidConfig, option_types
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.evaluation.protocol.protocol import BY_PROTOCOL, KEPT_BY_BASELINE

_EPILOG = """\
[bold]Examples[/bold]
  prunevid eval check mvbench ~/data/MVBench
  prunevid eval run --dataset mvbench --data ~/data/MVBench --limit 20 \\
      --model_path Qwen/Qwen2.5-VL-7B-Instruct
  ... --compare baseline,paper,paper+selector=random,paper+keep_ratio=0.2
  ... --protocol mvbench_videochat2    another harness's frames and text
  ... --shard 0/8 --device cuda:0      one of eight processes of one run
  ... --engine ray --ray_address auto  many GPUs, many machines

A stopped run goes on where it was: give the same command again, with any
number of workers. Configs can be added later. A video that is missing or
broken is an error of its questions, asked again next time; the tables say
of how many questions a score is.

[bold]Exit codes[/bold]
  0 done, whatever the coverage; 2 bad option, or the folder holds another
  run; 3 environment; 4 no video is there at all; 5 pruning was asked for and
  not applied; 130 ended by Ctrl-C, 129 by a closed terminal
  (SIGHUP), 143 by SIGTERM: the same command goes on
"""
_WHAT, _HOW, _PROTOCOL = "What is asked", "How it runs", "Protocol (over --protocol's own choices)"


def _option(name: str, text: str, metavar: str | None, panel: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", help=text, metavar=metavar, rich_help_panel=panel, **more)


def _run(
    dataset: Annotated[
        str, _option("dataset", "mvbench, videomme, egoschema, longvideobench, mlvu or vstar.", "NAME", _WHAT)
    ],
    data: Annotated[Path, _option("data", "The folder it was downloaded to; nothing is downloaded.", "DIR", _WHAT)],
    part: Annotated[
        str | None, _option("part", "subset or full of egoschema; val or test of longvideobench.", "NAME", _WHAT)
    ] = None,
    limit: Annotated[
        int | None,
        _option("limit", "So many questions, equally spaced over the set. It may grow.", "INT", _WHAT, min=1),
    ] = None,
    config: Annotated[
        str, _option("config", "A preset or JSON file, alone. See `prunevid ask --help`.", "NAME|FILE", _WHAT)
    ] = "",
    compare: Annotated[
        str,
        _option(
            "compare",
            "Several, with commas between, on the same decoded videos and vision features; NAME+OPTION=VALUE changes "
            "one of them. Default: baseline,paper.",
            "NAMES",
            _WHAT,
        ),
    ] = "",
    out: Annotated[
        Path | None, _option("out", "Folder of the results. Default: runs/ and the data set's name.", "FOLDER", _HOW)
    ] = None,
    engine: Annotated[
        str, _option("engine", "local: this machine's one model. ray: a cluster's.", "|".join(ENGINES), _HOW)
    ] = "local",
    workers: Annotated[
        int | None,
        _option(
            "workers",
            "Processes that read ahead; 0: a thread. Default: the CPUs less one, 4 at most; all that are free on Ray.",
            "INT",
            _HOW,
            min=0,
        ),
    ] = None,
    shard: Annotated[
        str, _option("shard", "This process's share of a run that several share a folder of, from 0/N.", "I/N", _HOW)
    ] = "0/1",
    ray_address: Annotated[
        str | None, _option("ray_address", "auto, or a cluster's. Default: a cluster of this machine.", "ADDRESS", _HOW)
    ] = None,
    replicas: Annotated[
        int | None, _option("replicas", "Models on the cluster. Default: one for each GPU.", "INT", _HOW, min=1)
    ] = None,
    restart: Annotated[bool, _option("restart", "Throw away what the folder holds.", None, _HOW)] = False,
    dry_run: Annotated[
        bool, _option("dry_run", "Check everything up to the model, and read one video.", None, _HOW)
    ] = False,
    as_json: Annotated[bool, _option("json", "The figures as one JSON object on stdout.", None, _HOW)] = False,
    verbose: Annotated[bool, _option("verbose", "Log; tracebacks of errors.", None, _HOW)] = False,
    model_path: Annotated[
        str, _option("model_path", "Hub id or folder. Default: bundled, which knows shapes alone.", "ID|FOLDER", MODEL)
    ] = "bundled",
    device: Device = None,
    dtype: Dtype = None,
    attn_implementation: Attention = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
    protocol: Annotated[
        str | None,
        _option(
            "protocol",
            "Whose frames, pixels and text: docs/evaluation.md lists them. Default: lmms (mlvu's and letter where "
            "lmms-eval's are not known).",
            "NAME",
            _PROTOCOL,
        ),
    ] = None,
    **options: Any,
) -> RunRequest:
    """Say what is asked for; nothing runs here."""
    from prunevid_qwen.evaluation.datasets import benchmark

    if config and compare:
        raise ConfigError("--config and --compare say the same thing twice: pass one of them")
    names = tuple(name.strip() for name in (compare or config or "baseline,paper").split(",") if name.strip())
    known = benchmark(dataset)
    choices, pruning = _apart(options)
    configs = tuple(_config(name, pruning) for name in names)
    for name, count in Counter(name for name, _ in configs).items():
        if count > 1:
            raise ConfigError(f"two configs are called {quoted(name)}: their answers could not be told apart")
    return RunRequest(
        dataset=known.name,
        data=data,
        out=out or Path("runs") / known.name,
        protocol=protocol,
        choices=choices,
        configs=configs,
        part=part,
        limit=limit,
        engine=engine,
        workers=check_engine(engine, workers, ray_address, replicas),
        shard=shard_of(shard),
        ray_address=ray_address,
        replicas=replicas,
        model_path=model_path,
        loading={
            "device": device, "dtype": dtype, "attn_implementation": attn_implementation, "revision": revision,
            "local_files_only": local_files_only,
        },
        restart=restart,
        dry_run=dry_run,
        as_json=as_json,
        verbose=verbose,
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )  # fmt: skip


def register_run(target: typer.Typer) -> None:
    """Give ``eval`` its command ``run``."""
    text = "Run a benchmark with and without pruning: exact protocols, stored answers, tables of what they are worth."
    command = takes_config_options(_run, without=BY_PROTOCOL, more=_protocol_parameters())
    target.command("run", help=text, epilog=_EPILOG, cls=PanelledCommand)(command)


def _protocol_fields() -> dict[str, Any]:
    from prunevid_qwen.evaluation.protocol.protocol import Protocol

    hints = get_type_hints(Protocol)
    return {each.name: hints[each.name] for each in dataclasses.fields(Protocol) if each.name != "dataset"}


def _protocol_parameters() -> list[inspect.Parameter]:
    from prunevid_qwen.evaluation.protocol.protocol import Protocol

    said, made = field_help(Protocol), []
    for name, kind in _protocol_fields().items():
        words = "|".join("none" if part is type(None) else part.__name__.upper() for part in get_args(kind) or (kind,))
        text = said[name][:1].upper() + said[name][1:].replace("``", "").replace("`", "")
        shown = typer.Option(f"--{name}", help=text, metavar=words.replace("STR", "NAME"), rich_help_panel=_PROTOCOL)
        kinds = inspect.Parameter.KEYWORD_ONLY
        made.append(inspect.Parameter(name, kinds, default=None, annotation=Annotated[str | None, shown]))
    return made


def _apart(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part the protocol's choices that were given from the options of pruning."""
    fields, choices, pruning = _protocol_fields(), {}, {}
    for name, value in options.items():
        if name in fields:
            if value is not None:
                choices[name] = option_value(name, value, fields[name])
        else:
            pruning[name] = value
    return choices, pruning


def _config(name: str, given: dict[str, Any]) -> tuple[str, PruneVidConfig]:
    """Return a config by its name and the changes behind it; the baseline takes only what concerns reading."""
    base, *changes = name.split("+")
    own = {}
    for change in changes:
        option, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"{quoted(name)}: a change is NAME+OPTION=VALUE, such as paper+keep_ratio=0.2")
        if option not in given and option.partition(".")[0] not in PARTS:
            known = {*option_types(), "pruning_rate"}
            hint = "the protocol says how videos are read" if option in known else "see prunevid eval run --help"
            raise ConfigError(f"{quoted(name)}: no option {quoted(option)} of pruning; {hint}")
        own[option] = value
    if base == "baseline":
        if own:
            raise ConfigError(
                f"{quoted(name)}: the baseline is the model without pruning; nothing of it can be changed"
            )
        given = {
            option: value
            for option, value in given.items()
            if option in KEPT_BY_BASELINE or option.startswith("reading.")
        }
        return base, named_config(base, given)[1]
    return named_config(base, {**given, **own})
