"""``prunevid train-glimpse``: what is asked for, checked without torch."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from prunevid_qwen.cli.help import EXIT_CODES, PanelledCommand
from prunevid_qwen.cli.options import field_help
from prunevid_qwen.cli.train_glimpse_request import TrainGlimpseRequest
from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.training.glimpse.recipe import CHOICES, GlimpseRecipe
from prunevid_qwen.training.glimpse.recipe_values import read_yaml

_EPILOG = """\
[bold]Examples[/bold]
  prunevid train-glimpse --recipe train/glimpse.yaml --check        is the data complete?
  prunevid train-glimpse --recipe train/glimpse.yaml --out runs/glimpse_7b
  accelerate launch --multi_gpu train/glimpse.py --recipe train/glimpse.yaml --out runs/glimpse_7b
  ... --data path=mine.jsonl --data images=pictures --epochs 3      own boxes, the rest as published
  prunevid ask ... --selector glimpse --glimpse_path runs/glimpse_7b/model

A stopped run goes on where it was: give the same command again.
Without --recipe and options it is the published recipe.
"""
_DATA = ("data", "eval_data")
_HOW, _RECIPE = "How it runs", "Recipe (each overrides what stands in --recipe)"


def _option(name: str, text: str, metavar: str | None, panel: str, **more: Any) -> Any:
    return typer.Option(f"--{name}", help=text, metavar=metavar, rich_help_panel=panel, **more)


def train_glimpse(
    recipe: Annotated[
        Path | None, _option("recipe", "Options in a YAML file. Default: the published recipe.", "FILE", _HOW)
    ] = None,
    out: Annotated[
        Path, _option("out", "Folder of checkpoint, curves and model. Default: runs/glimpse.", "FOLDER", _HOW)
    ] = Path("runs/glimpse"),
    check: Annotated[
        bool, _option("check", "Only look at every record and say what is wrong (exit code 4).", None, _HOW)
    ] = False,
    no_check: Annotated[bool, _option("no_check", "Do not look at the records before training.", None, _HOW)] = False,
    restart: Annotated[bool, _option("restart", "Throw away what the folder holds.", None, _HOW)] = False,
    device: Annotated[
        str | None, _option("device", "cpu leaves a GPU alone. Default: what accelerate finds.", "cpu", _HOW)
    ] = None,
    threads: Annotated[
        int | None, _option("threads", "Of torch on the CPU. Default: torch's.", "INT", _HOW, min=1)
    ] = None,
    as_json: Annotated[
        bool, _option("json", "What train.json holds as one JSON object on stdout.", None, _HOW)
    ] = False,
    verbose: Annotated[bool, _option("verbose", "Log; tracebacks of errors.", None, _HOW)] = False,
    **options: Any,
) -> TrainGlimpseRequest:
    """Say what is asked for; nothing runs here."""
    if check and no_check:
        raise ConfigError("--check and --no_check contradict each other: pass one of them")
    if device not in (None, "cpu"):
        raise ConfigError(
            f"--device takes cpu, got {quoted(device)}: GPUs are chosen with CUDA_VISIBLE_DEVICES or "
            "by accelerate launch"
        )
    made = build_recipe(recipe, options)
    if no_check and made.skip_bad:
        raise ConfigError("--no_check cannot say which records skip_bad would leave out: pass one of them")
    return TrainGlimpseRequest(
        recipe=made,
        out=out,
        check_only=check,
        check=not no_check,
        restart=restart,
        device=device,
        threads=threads,
        as_json=as_json,
        verbose=verbose,
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )


def build_recipe(path: Path | None, given: dict[str, Any]) -> GlimpseRecipe:
    """Return the recipe of a file, or the published one, with the options that were given on top.

    Raises:
        ConfigError: no such file, an unknown option, or a bad value.
    """
    base = GlimpseRecipe() if path is None else GlimpseRecipe.from_yaml(path)
    hints = get_type_hints(GlimpseRecipe)
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or value == []:
            continue
        if name in _DATA:
            changes[name] = _pairs(name, value, getattr(base, name))
        else:
            changes[name] = value if isinstance(value, bool) else _value(name, value, hints[name])
    return base.replace(**changes)


def register_train_glimpse(app: typer.Typer) -> None:
    """Give the command line ``train-glimpse``."""
    text = "Train GlimpsePrune's predictor for a frozen model, on questions with boxes that say where the answer is."
    app.command("train-glimpse", help=text, epilog=_EPILOG + EXIT_CODES, cls=PanelledCommand)(
        _takes_recipe(train_glimpse)
    )


def _takes_recipe(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command whose last parameter is ``**options`` an option for every field of GlimpseRecipe."""
    fixed = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    said, hints, defaults = field_help(GlimpseRecipe), get_type_hints(GlimpseRecipe), GlimpseRecipe()
    made = []
    for each in dataclasses.fields(GlimpseRecipe):
        text, hint = said[each.name][:1].upper() + said[each.name][1:].replace("``", ""), hints[each.name]
        kind: Any = str | None
        names = f"--{each.name}"
        more: dict[str, Any] = {"metavar": _metavar(each.name, hint)}
        if each.name in _DATA:
            kind = list[str] | None
            text += " Repeat it for several options; a new kind begins from nothing."
        elif hint is bool:
            kind, names, more = bool | None, f"--{each.name}/--no_{each.name}", {}
        else:
            text += f" Default: {_shown(getattr(defaults, each.name))}."
        option = typer.Option(names, help=text, rich_help_panel=_RECIPE, **more)
        annotation = Annotated[kind, option]
        made.append(inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    def entry(**values: Any) -> Any:
        return command(**values)

    entry.__name__, entry.__doc__ = command.__name__, command.__doc__
    entry.__signature__ = inspect.Signature([*fixed, *made])  # type: ignore[attr-defined]
    return entry


def _metavar(name: str, hint: Any) -> str:
    if name in CHOICES:
        return "|".join(CHOICES[name])
    if name in _DATA:
        return "OPTION=VALUE"
    parts = (get_args(hint) if get_origin(hint) is not tuple else ()) or (hint,)
    words = {int: "INT", float: "FLOAT", str: "NAME", type(None): "none"}
    return "|".join(words.get(part, "NUMBERS") for part in parts)


def _shown(value: Any) -> str:
    return "none" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(name: str, text: str, hint: Any) -> Any:
    """Read a value from the command line; what is no whole number stays a text, of which the recipe complains."""
    parts = get_args(hint) if get_origin(hint) is not tuple else (hint,)
    if type(None) in parts and text.lower() == "none":
        return None
    inner = next((part for part in parts if part is not type(None)), hint)
    if get_origin(inner) is tuple:
        return [_value(name, part.strip(), get_args(inner)[0]) for part in text.split(",")]
    return int(text) if inner is int and text.strip().lstrip("-").isdigit() else text


def _pairs(name: str, given: list[str], base: Any) -> dict[str, Any]:
    """Read OPTION=VALUE, on top of what the recipe has."""
    changes = {}
    for text in given:
        option, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--{name} takes OPTION=VALUE such as path=mine.jsonl, got {quoted(text)}")
        changes[option.strip()] = read_yaml(value, f"--{name} {text}")
    return changes if "kind" in changes else {**base, **changes}
