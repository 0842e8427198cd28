"""``prunevid eval visual-cot``: what is asked for, checked without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid_qwen.cli.eval_check import register_check
from prunevid_qwen.cli.eval_run import register_run
from prunevid_qwen.cli.eval_tables import register_tables
from prunevid_qwen.cli.help import EXIT_CODES, PanelledCommand
from prunevid_qwen.cli.model_options import MODEL, Attention, Device, Dtype, LocalFilesOnly, Revision
from prunevid_qwen.cli.options import named_config, takes_config_options
from prunevid_qwen.cli.visual_cot_request import VisualCotRequest
from prunevid_qwen.errors import ConfigError, quoted

_EPILOG = """\
[bold]Examples[/bold]
  prunevid eval visual-cot --data viscot_benchmark/benchmark --images . --check
  prunevid eval visual-cot --data benchmark/gqa.json --images . --limit 100 \\
      --model_path Qwen/Qwen2.5-VL-7B-Instruct --config paper --keep_ratio 0.11
  ... --judge-base-url http://localhost:8000/v1 --judge-model Qwen/Qwen2.5-32B-Instruct
  ... --judge-only                      judge the answers of --out, or try again what failed

A stopped run goes on where it was: give the same command again. Scores are of the answered samples, and
the report says of how many. Images that were missing are asked when they are there.
"""
_WHAT, _HOW, _JUDGE = "What is asked", "How it runs", "How it is scored"
_SCORERS = ("judge", "exact", "contained")


def _option(name: str, text: str, metavar: str | None, panel: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", help=text, metavar=metavar, rich_help_panel=panel, **more)


def visual_cot(
    data: Annotated[
        list[Path] | None,
        _option("data", "A set (.json, .jsonl), or a folder of sets. Repeat it for several.", "PATH", _WHAT),
    ] = None,
    images: Annotated[
        Path, _option("images", "Folder from which the records' image paths start. Default: this one.", "FOLDER", _WHAT)
    ] = Path("."),
    limit: Annotated[
        int | None, _option("limit", "Samples of each set, from its beginning. Default: all.", "INT", _WHAT, min=1)
    ] = None,
    brief: Annotated[
        bool, _option("brief", "Ask for a single word or phrase, behind every question.", None, _WHAT)
    ] = False,
    max_new_tokens: Annotated[
        int | None, _option("max_new_tokens", "Longest answer. Default: 1024.", "INT", _WHAT, min=1)
    ] = None,
    config: Annotated[
        str,
        _option("config", "Preset or JSON file that competes with the baseline. Default: paper.", "NAME|FILE", _WHAT),
    ] = "",
    configs: Annotated[
        str, _option("configs", "Several of them, with commas between, instead of --config.", "NAMES", _WHAT)
    ] = "",
    no_baseline: Annotated[
        bool, _option("no_baseline", "Leave out the unpruned model (and so the differences to it).", None, _WHAT)
    ] = False,
    out: Annotated[Path, _option("out", "Folder of the results. Default: runs/visual_cot.", "FOLDER", _HOW)] = Path(
        "runs/visual_cot"
    ),
    check: Annotated[
        bool, _option("check", "Only read everything and say what is missing (exit code 4).", None, _HOW)
    ] = False,
    restart: Annotated[bool, _option("restart", "Throw away what the folder holds.", None, _HOW)] = False,
    as_json: Annotated[bool, _option("json", "The summary as one JSON object on stdout.", None, _HOW)] = False,
    verbose: Annotated[bool, _option("verbose", "Log; tracebacks of errors.", None, _HOW)] = False,
    scorer: Annotated[
        str,
        _option(
            "scorer",
            "Default: judge with --judge_base_url, else contained; the report has both.",
            "|".join(_SCORERS),
            _JUDGE,
        ),
    ] = "",
    judge_base_url: Annotated[
        str, _option("judge_base_url", "OpenAI-compatible endpoint, such as http://localhost:8000/v1.", "URL", _JUDGE)
    ] = "",
    judge_model: Annotated[str, _option("judge_model", "As that endpoint calls it.", "NAME", _JUDGE)] = "",
    judge_api_key_file: Annotated[
        Path | None, _option("judge_api_key_file", "Holds the key. Default: none is needed.", "FILE", _JUDGE)
    ] = None,
    judge_workers: Annotated[int, _option("judge_workers", "Requests at once. Default: 4.", "INT", _JUDGE, min=1)] = 4,
    judge_timeout: Annotated[
        float, _option("judge_timeout", "Until a request is given up. Default: 60.", "SECONDS", _JUDGE, min=1)
    ] = 60.0,
    judge_retries: Annotated[
        int,
        _option("judge_retries", "Of a failed request, waiting longer each time. Default: 4.", "INT", _JUDGE, min=0),
    ] = 4,
    judge_only: Annotated[
        bool, _option("judge_only", "Score the answers that --out holds; no model is loaded.", None, _JUDGE)
    ] = False,
    model_path: Annotated[
        str, _option("model_path", "Hub id or folder. Default: bundled, which knows shapes alone.", "ID|FOLDER", MODEL)
    ] = "bundled",
    device: Device = None,
    dtype: Dtype = None,
    attn_implementation: Attention = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
    **options: Any,
) -> VisualCotRequest:
    """Say what is asked for; nothing runs here."""
    if config and configs:
        raise ConfigError("--config and --configs say the same thing twice: pass one of them")
    if restart and judge_only:
        raise ConfigError("--restart throws away the answers that --judge_only would score: pass one of them")
    scorer = scorer or ("judge" if judge_base_url else "contained")
    judge: dict[str, Any] = {}
    if scorer not in _SCORERS:
        raise ConfigError(f"scorer is one of {', '.join(_SCORERS)}; got {quoted(scorer)}")
    if scorer == "judge":
        judge = _judge(judge_base_url, judge_model, judge_api_key_file)
        judge |= {"timeout": judge_timeout, "retries": judge_retries}
    names = tuple(name.strip() for name in configs.split(",") if name.strip())
    return VisualCotRequest(
        out=out,
        data=tuple(data or ()),
        images=images,
        configs=tuple(named_config(name, options) for name in names or (config or "paper",)),
        with_baseline=not no_baseline,
        scorer=scorer,
        judge=judge,
        workers=judge_workers,
        limit=limit,
        brief=brief,
        max_new_tokens=max_new_tokens,
        model_path=model_path,
        loading={
            "device": device, "dtype": dtype, "attn_implementation": attn_implementation, "revision": revision,
            "local_files_only": local_files_only,
        },
        check=check,
        judge_only=judge_only,
        restart=restart,
        as_json=as_json,
        verbose=verbose,
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )  # fmt: skip


def register_eval(app: typer.Typer, settings: dict[str, Any]) -> None:
    """Give the command line ``eval`` and its commands, one for each kind of data."""
    data = typer.Typer(context_settings=settings, no_args_is_help=True)
    text = "Answer Visual-CoT's questions about images with and without pruning, and score the answers."
    data.command("visual-cot", help=text, epilog=_EPILOG + EXIT_CODES, cls=PanelledCommand)(
        takes_config_options(visual_cot)
    )
    register_check(data)
    register_run(data)
    register_tables(data)
    app.add_typer(data, name="eval", help="Evaluate on data sets: scores with and without pruning.")


def _judge(base_url: str, model: str, key_file: Path | None) -> dict[str, Any]:
    for name, given in (("base_url", base_url), ("model", model)):
        if not given:
            raise ConfigError(
                f"a judge needs --judge_{name}: see the examples in --help; --scorer contained needs none"
            )
    if not base_url.startswith(("http://", "https://")):
        raise ConfigError(f"--judge_base_url is an address such as http://localhost:8000/v1, got {quoted(base_url)}")
    judge = {"base_url": base_url.rstrip("/"), "model": model}
    if key_file is not None:
        try:
            key = key_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"cannot read --judge_api_key_file {key_file} ({error.strerror})") from None
        if not key:
            raise ConfigError(f"--judge_api_key_file {key_file} is empty")
        judge["api_key"] = key
    return judge
