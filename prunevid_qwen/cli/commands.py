"""What can be typed: the commands and their options. A command only says what is asked for; nothing runs here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prunevid_qwen.cli.batch import register_batch
from prunevid_qwen.cli.bench import register_bench
from prunevid_qwen.cli.convert_glimpse import register_convert_glimpse
from prunevid_qwen.cli.eval_visual_cot import register_eval
from prunevid_qwen.cli.help import PanelledCommand
from prunevid_qwen.cli.model_options import MODEL, Attention, Device, Dtype, LocalFilesOnly, Revision
from prunevid_qwen.cli.options import SAMPLING, build_config, takes_config_options
from prunevid_qwen.cli.request import Request
from prunevid_qwen.cli.train_glimpse import register_train_glimpse
from prunevid_qwen.cli.train_glimpse_plus import register_train_glimpse_plus
from prunevid_qwen.config.plugins import load_plugin
from prunevid_qwen.version import __version__

_OUTPUT = "Output"

# Underscores are the spelling (they are the names in Python and in JSON); dashes are accepted everywhere.
_SETTINGS = {
    "token_normalize_func": lambda token: token.replace("-", "_"),
    "help_option_names": ["--help", "-h"],
}
_EPILOG = """\
[bold]Examples[/bold]
  prunevid ask --video_path cooking.mp4 --question "What is added last?" \\
      --model_path Qwen/Qwen2.5-VL-7B-Instruct
  prunevid ask --image photo.jpg --question "What is this?" \\
      --model_path llava-hf/llava-1.5-7b-hf
  ... --config aggressive --max_frames 64   more frames, fewer tokens of each
  ... --keep_ratio 0.2 --compare            also without pruning, side by side
  ... --selector fastv --selector.layers 3  an option of one method, in full
  ... --json > answer.json                  all but the one object goes to stderr

[bold]Exit codes[/bold]
  0 answered; 2 bad option; 3 environment (device, package, network); 4 media;
  5 pruning was asked for and not applied;
  130 ended by Ctrl-C, 129 by a closed terminal (SIGHUP), 143 by SIGTERM
"""

app = typer.Typer(
    name="prunevid",
    help="Qwen2.5-VL answers questions about videos with a fraction of the visual tokens (PruneVid).",
    context_settings=_SETTINGS,
    add_completion=False,
    rich_markup_mode="rich",
)
demo_app = typer.Typer(context_settings=_SETTINGS, add_completion=False, rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def _prunevid(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        typer.echo(f"prunevid_qwen {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _option(name: str, text: str, metavar: str | None = None, panel: str | None = None, **more: Any) -> Any:
    return typer.Option(f"--{name}", help=text, metavar=metavar, rich_help_panel=panel, **more)


_PRESETS = (
    "paper, recommended (ours), conservative (prunes less), aggressive (prunes more), stage1_only, reference (the "
    "authors' code), glimpse (GlimpsePrune, a trained predictor), fastv (FastV as published), baseline (no pruning), "
    "or a JSON file. Options given beside it override it. Default: paper."
)
_MODELS = (
    "Hub id or folder of a Qwen2.5-VL, Qwen2-VL or LLaVA-1.5 model; the last is shown images alone. Default: bundled, "
    "a tiny one that knows moving coloured shapes and nothing else."
)


def _ask(
    video_path: Annotated[
        list[str] | None,
        _option("video_path", "Video file, gif or folder of frames. Repeat it for several in one prompt.", "PATH"),
    ] = None,
    image: Annotated[list[str] | None, _option("image", "Image file. Repeat it for several.", "PATH")] = None,
    question: Annotated[str | None, _option("question", "What to ask.", "TEXT")] = None,
    config: Annotated[str, _option("config", _PRESETS, "PRESET|FILE.json")] = "paper",
    max_new_tokens: Annotated[int, _option("max_new_tokens", "Longest answer. Default: 64.", "INT", min=1)] = 64,
    plugin: Annotated[
        list[str] | None,
        _option(
            "plugin",
            "Python file, or module, that registers methods of your own; it is run. Repeat it for several. Their "
            "options have full names: --selector.NAME VALUE.",
            "FILE|MODULE",
        ),
    ] = None,
    model_path: Annotated[str, _option("model_path", _MODELS, "ID|FOLDER", MODEL)] = "bundled",
    device: Device = None,
    dtype: Dtype = None,
    attn_implementation: Attention = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
    compare: Annotated[bool, _option("compare", "Also answer without pruning, side by side.", None, _OUTPUT)] = False,
    as_json: Annotated[bool, _option("json", "One JSON object on stdout, all else on stderr.", None, _OUTPUT)] = False,
    verbose: Annotated[
        bool, _option("verbose", "Frames, options, versions and log; tracebacks of errors.", None, _OUTPUT)
    ] = False,
    start: Annotated[float | None, _option("start", "From this second of the video.", "SECONDS", SAMPLING)] = None,
    end: Annotated[float | None, _option("end", "Up to this second of the video.", "SECONDS", SAMPLING)] = None,
    **options: Any,
) -> Request:
    for source in plugin or ():
        load_plugin(source)
    built = build_config(config, options)
    return Request(
        videos=tuple(video_path or ()),
        images=tuple(image or ()),
        question=question,
        config=built.replace(verbose=True) if verbose else built,
        start=start,
        end=end,
        max_new_tokens=max_new_tokens,
        model_path=model_path,
        loading={
            "device": device,
            "dtype": dtype,
            "attn_implementation": attn_implementation,
            "revision": revision,
            "local_files_only": local_files_only,
        },
        compare=compare,
        as_json=as_json,
        verbose=verbose,
    )


def _register(target: typer.Typer, name: str, command: Any, text: str) -> None:
    target.command(name, help=text, epilog=_EPILOG, cls=PanelledCommand)(command)


_demo = takes_config_options(_ask, then=Request.or_bundled_clip)
_register(app, "ask", takes_config_options(_ask), "Answer a question about videos or images with pruned tokens.")
_register(app, "demo", _demo, "The same as ask; without a video, about the clip that comes with the package.")
_register(
    demo_app,
    "demo.py",
    _demo,
    "Answer a question about a video with pruned tokens; without a video, about the clip that comes with the package.",
)
register_batch(app)
register_bench(app, _SETTINGS)
register_eval(app, _SETTINGS)
register_train_glimpse(app)
register_train_glimpse_plus(app)
register_convert_glimpse(app)


@app.command(
    "reproduce",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
def _reproduce(
    context: typer.Context, name: Annotated[str | None, typer.Argument(help="Of the table.", show_default=False)] = None
) -> Any:
    """Run a published table anew and put its figures, as theirs, beside ours."""
    from prunevid_qwen.cli.reproduce import asked_of
    from prunevid_qwen.evaluation.published.table import table_names

    if name in (None, "--help", "-h"):
        typer.echo(f"Usage: prunevid reproduce {{{'|'.join(table_names())}}} [OPTIONS], or NAME --help")
        return 0
    return asked_of(name, context.args)
