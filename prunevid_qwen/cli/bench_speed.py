"""``prunevid bench speed``: what is asked for, checked without torch; then the run, its progress and its report."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid_qwen.cli.bars import Bars
from prunevid_qwen.cli.help import EXIT_CODES, PanelledCommand
from prunevid_qwen.errors import ConfigError, quoted

_EPILOG = """\
[bold]Examples[/bold]
  prunevid bench speed --quick                        a minute, to see what comes out
  prunevid bench speed                                7B-like proportions on a CPU, the 7B itself on a GPU
  ... --shape 3b --frames 16,64,256 --batch 1,4       random weights: nothing is downloaded
  ... --model_path Qwen/Qwen2.5-VL-7B-Instruct --video clip.mp4
  ... --preset paper,recommended,mine.json            configs; the controls follow the first
  ... --only growth                                   stage 1 against frames, up to an hour
  ... --plots_from runs/efficiency                    draw and write the report again, measuring nothing

A stopped run goes on where it was: give the same command again.
"""
_WHAT, _HOW = "What is measured", "How it runs"
_ONLY = ("contest", "overhead", "growth")


@dataclass(frozen=True)
class SpeedRequest:
    """One call of ``prunevid bench speed``; None takes the default of the device or of the quick run.

    Args:
        out: folder of the results.
        options: of `SpeedRun` that were given.
        device: None takes the GPU when there is one.
        quick: a small run.
        restart: throw away what the folder holds.
        plots_from: only write the report and the plots of this folder.
        as_json: the summary on stdout, all else on stderr.
        command: what was typed.
    """

    out: Path
    options: dict[str, Any]
    device: str | None = None
    quick: bool = False
    restart: bool = False
    plots_from: Path | None = None
    as_json: bool = False
    command: str = ""

    def run(self) -> int:
        """Measure, show how far it is, write the report and say what came out; return the exit code."""
        quiet = contextlib.redirect_stdout(sys.stderr) if self.as_json else contextlib.nullcontext()
        with quiet:
            folder = self.plots_from or self.out
            if self.plots_from is None:
                self._measure()
            summary = self._report(folder)
            if not self.as_json:
                for row in summary["rows"]:
                    typer.echo(f"{row['frames']} frames, batch {row['batch']}, {row['variant']}: {row['sentence']}")
                for said in summary["noise"]:
                    typer.echo(f"noisy: {said}")
                typer.echo(f"report: {folder / 'report.md'}\nsummary: {folder / 'efficiency.json'}")
        if self.as_json:
            typer.echo(json.dumps(summary))
        return 0

    def _measure(self) -> None:
        from transformers.utils import logging

        from prunevid_qwen.evaluation.speed.speed_run import SpeedRun, speed_run
        from prunevid_qwen.loading import choose_device

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        device = choose_device(self.device)
        start: dict[str, Any] = {"device": device}
        if device.startswith("cuda"):
            start |= {"shape": "7b", "dtype": "bfloat16", "frames": (32, 128), "repeats": 7}
        if self.quick:
            start |= {
                "shape": "tiny",
                "dtype": "float32",
                "frames": (8, 16),
                "new_tokens": 8,
                "repeats": 3,
                "warmup": 1,
            }
        asked = SpeedRun(**{**start, **self.options})
        with Bars() as bars:
            speed_run(self.out, asked, self.restart, bars.tell, self.command)

    def _report(self, folder: Path) -> dict[str, Any]:
        from prunevid_qwen.evaluation.speed.speed_page import write_report

        drawable = importlib.util.find_spec("matplotlib") is not None
        if not drawable:
            typer.echo(
                "no plots: matplotlib is not installed (pip install 'prunevid_qwen[bench]'). The measurements are "
                f"kept: --plots_from {folder} draws them later, on another machine too",
                err=True,
            )
        return write_report(folder, plots=drawable)


def _option(name: str, text: str, metavar: str | None, panel: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", help=text, metavar=metavar, rich_help_panel=panel, **more)


def speed(
    out: Annotated[Path, _option("out", "Folder of the results. Default: runs/efficiency.", "FOLDER", _HOW)] = Path(
        "runs/efficiency"
    ),
    shape: Annotated[
        str,
        _option(
            "shape",
            "Random weights of this shape. Default: 7b_small on a CPU, 7b on a GPU.",
            "tiny|0.5b|7b_small|3b|7b",
            _WHAT,
        ),
    ] = "",
    model_path: Annotated[
        str, _option("model_path", "Real weights instead: bundled, a folder or a hub id.", "PATH", _WHAT)
    ] = "",
    preset: Annotated[
        str, _option("preset", "Configs, with commas between. Default: paper,recommended.", "NAMES", _WHAT)
    ] = "",
    frames: Annotated[str, _option("frames", "Default: 16,32 on a CPU, 32,128 on a GPU.", "NUMBERS", _WHAT)] = "",
    batch: Annotated[str, _option("batch", "Rows, each with a video of its own. Default: 1.", "NUMBERS", _WHAT)] = "",
    grid: Annotated[str, _option("grid", "Tokens of a temporal position. Default: 10x14.", "ROWSxCOLUMNS", _WHAT)] = "",
    text_tokens: Annotated[
        int | None, _option("text_tokens", "Beside the video. Default: 60.", "INT", _WHAT, min=4)
    ] = None,
    new_tokens: Annotated[
        int | None, _option("new_tokens", "Of every answer. Default: 64.", "INT", _WHAT, min=2)
    ] = None,
    content: Annotated[
        str,
        _option(
            "content", "Of the random pixels: how much of the picture moves. Default: half.", "still|half|moving", _WHAT
        ),
    ] = "",
    video: Annotated[
        str, _option("video", "Real files instead of random pixels: generated, or a path.", "PATH", _WHAT)
    ] = "",
    only: Annotated[
        str,
        _option(
            "only", "Measure these alone. Default: contest; --overhead and --growth add theirs.", "|".join(_ONLY), _WHAT
        ),
    ] = "",
    overhead: Annotated[
        bool, _option("overhead", "Also what the hooks cost when nothing is pruned.", None, _WHAT)
    ] = False,
    growth: Annotated[bool, _option("growth", "Also stage 1 against frames, up to 3,600.", None, _WHAT)] = False,
    device: Annotated[str, _option("device", "cuda or cpu. Default: the GPU when there is one.", "NAME", _HOW)] = "",
    dtype: Annotated[
        str, _option("dtype", "Default: float32 on a CPU, bfloat16 on a GPU.", "float32|bfloat16|float16", _HOW)
    ] = "",
    attention: Annotated[
        str, _option("attention", "Attention kernel of all competitors. Default: sdpa.", "NAME", _HOW)
    ] = "",
    repeats: Annotated[
        int | None, _option("repeats", "Rounds that count. Default: 5, on a GPU 7.", "INT", _HOW, min=1)
    ] = None,
    warmup: Annotated[
        int | None, _option("warmup", "Rounds before them, beside two runs of each. Default: 1.", "INT", _HOW, min=0)
    ] = None,
    threads: Annotated[int | None, _option("threads", "Of torch on the CPU.", "INT", _HOW, min=1)] = None,
    quick: Annotated[bool, _option("quick", "A tiny model, short videos, few rounds.", None, _HOW)] = False,
    restart: Annotated[bool, _option("restart", "Throw away what the folder holds.", None, _HOW)] = False,
    plots_from: Annotated[
        Path | None, _option("plots_from", "Only draw and write the report of this folder.", "FOLDER", _HOW)
    ] = None,
    as_json: Annotated[bool, _option("json", "The summary as JSON on stdout.", None, _HOW)] = False,
) -> SpeedRequest:
    """Say what is asked for; nothing runs here."""
    parts = _names(only)
    for part in parts:
        if part not in _ONLY:
            raise ConfigError(f"--only takes {', '.join(_ONLY)}; got {quoted(part)}")
    given: dict[str, Any] = {
        "shape": shape, "model_path": model_path, "presets": _names(preset), "frames": _numbers("frames", frames),
        "batches": _numbers("batch", batch), "grid": _grid(grid), "text_tokens": text_tokens, "new_tokens": new_tokens,
        "content": content, "video": video, "dtype": dtype, "attention": attention, "repeats": repeats,
        "warmup": warmup, "threads": threads,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value not in (None, "", ())}
    if parts:
        options |= {part: part in parts for part in _ONLY}
    options |= {name: True for name, asked in (("overhead", overhead), ("growth", growth)) if asked}
    return SpeedRequest(
        out,
        options,
        device or None,
        quick,
        restart,
        plots_from,
        as_json,
        " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )


def register_speed(bench: typer.Typer) -> None:
    """Give ``bench`` its command ``speed``."""
    text = "Time, memory and FLOPs with and without pruning: the stock model, ours and controls, in turns."
    bench.command("speed", help=text, epilog=_EPILOG + EXIT_CODES, cls=PanelledCommand)(speed)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        raise ConfigError(
            f"--{name} takes whole numbers with commas between, such as 16,32; got {quoted(text)}"
        ) from None


def _grid(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    rows, x, columns = text.lower().partition("x")
    if not x or not rows.isdigit() or not columns.isdigit():
        raise ConfigError(f"--grid is rows x columns of tokens, such as 10x14; got {quoted(text)}")
    return int(rows), int(columns)
