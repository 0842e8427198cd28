"""``prunevid batch``: what is asked for, checked without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid_qwen.cli.batch_request import BatchRequest
from prunevid_qwen.cli.engines import ENGINES, check_engine
from prunevid_qwen.cli.help import PanelledCommand
from prunevid_qwen.cli.model_options import MODEL, Attention, Device, Dtype, LocalFilesOnly, Revision
from prunevid_qwen.cli.options import named_config, takes_config_options
from prunevid_qwen.errors import ConfigError

_EPILOG = """\
[bold]Questions[/bold]: one JSON object a line; paths start from the file's folder
  {"id": "a1", "video": "a.mp4", "question": "What is added?", "start": 10}
  {"images": ["x.png", "y.png"], "question": "What differs?", "my_key": 7}
  {"messages": \\[{"role": "user", "content": \\[
    {"type": "video", "video": "a.mp4"}, {"type": "text", "text": "Why?"}]}]}
  Lines without an id are called by their number; keys of your own come back
  under "extra". Neighbours about the same media read and encode them once.

[bold]Answers[/bold]: one JSON object a line, in the order in which they come; always
  the most probable token (greedy), whatever the model's generation_config
  prefers. A stopped run goes on where it was: give the same command again.
  What failed is asked again, and questions can be added to the file.

[bold]Examples[/bold]
  prunevid batch questions.jsonl --out answers.jsonl \\
      --model_path Qwen/Qwen2.5-VL-7B-Instruct
  ... --limit 20                        a first try; without it, the rest
  ... --engine ray                      every GPU of this machine
  ... --engine ray --ray_address auto   every GPU of this machine's cluster

[bold]Exit codes[/bold]
  0 all answered; 2 bad option, bad lines or another run's --out, and nothing
  was asked; 3 environment; 4 some could not be answered, their lines say why;
  5 pruning was asked for and not applied;
  130 ended by Ctrl-C, 129 by a closed terminal (SIGHUP), 143 by SIGTERM:
  what was answered is kept, and the same command goes on
"""
_WHAT, _HOW = "What is asked", "How it runs"


def _option(name: str, text: str, metavar: str | None, panel: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", help=text, metavar=metavar, rich_help_panel=panel, **more)


def _batch(
    questions: Annotated[Path, typer.Argument(metavar="QUESTIONS.jsonl", help="One JSON object a line, see below.")],
    out: Annotated[Path, _option("out", "File of the answers.", "ANSWERS.jsonl", _WHAT)],
    config: Annotated[
        str, _option("config", "Preset or JSON file, see `prunevid ask --help`. Default: paper.", "NAME|FILE", _WHAT)
    ] = "paper",
    max_new_tokens: Annotated[
        int, _option("max_new_tokens", "Longest answer. Default: 512.", "INT", _WHAT, min=1)
    ] = 512,
    system: Annotated[
        str | None, _option("system", "Message of the system before every question. Default: none.", "TEXT", _WHAT)
    ] = None,
    limit: Annotated[
        int | None, _option("limit", "So many questions, from the beginning. It may grow.", "INT", _WHAT, min=1)
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
    ray_address: Annotated[
        str | None, _option("ray_address", "auto, or host:port. Default: a cluster of this machine.", "ADDRESS", _HOW)
    ] = None,
    replicas: Annotated[
        int | None, _option("replicas", "Models on the cluster. Default: one for each GPU.", "INT", _HOW, min=1)
    ] = None,
    restart: Annotated[bool, _option("restart", "Throw away what the file of answers holds.", None, _HOW)] = False,
    as_json: Annotated[bool, _option("json", "What was done, as one JSON object on stdout.", None, _HOW)] = False,
    verbose: Annotated[bool, _option("verbose", "Log; tracebacks of errors.", None, _HOW)] = False,
    model_path: Annotated[
        str, _option("model_path", "Hub id or folder. Default: bundled, which knows shapes alone.", "ID|FOLDER", MODEL)
    ] = "bundled",
    device: Device = None,
    dtype: Dtype = None,
    attn_implementation: Attention = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
    **options: Any,
) -> BatchRequest:
    """Say what is asked for; nothing runs here."""
    if out.resolve() == questions.resolve():
        raise ConfigError(f"--out {out} is the file of the questions: pass another")
    return BatchRequest(
        questions=questions,
        out=out,
        config=named_config(config, options),
        max_new_tokens=max_new_tokens,
        system=system,
        limit=limit,
        engine=engine,
        workers=check_engine(engine, workers, ray_address, replicas),
        ray_address=ray_address,
        replicas=replicas,
        model_path=model_path,
        loading={
            "device": device, "dtype": dtype, "attn_implementation": attn_implementation, "revision": revision,
            "local_files_only": local_files_only,
        },
        restart=restart,
        as_json=as_json,
        verbose=verbose,
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )  # fmt: skip


def register_batch(app: typer.Typer) -> None:
    """Give the command line ``batch``."""
    text = "Answer a file of questions about videos and images, on one GPU or on many; a stopped run goes on."
    app.command("batch", help=text, epilog=_EPILOG, cls=PanelledCommand)(takes_config_options(_batch))
