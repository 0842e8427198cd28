"""``prunevid convert-glimpse``: a published glimpse predictor into the form that this package writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from prunevid_qwen.cli.help import PanelledCommand
from prunevid_qwen.config.amounts import size
from prunevid_qwen.errors import ConfigError, quoted

_EPILOG = """\
[bold]Examples[/bold]
  prunevid convert-glimpse ashun989/GlimpsePrune_Qwen2.5-VL-7B-Instruct glimpse_7b
  prunevid convert-glimpse ./downloaded glimpse_7b --dtype bfloat16
  prunevid ask ... --selector glimpse --glimpse_path glimpse_7b

The published folder works as it is too; ours is safetensors instead of a pickle, and smaller.
"""
_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class ConvertGlimpseRequest:
    """One call of ``prunevid convert-glimpse``.

    Args:
        source: folder or hub id.
        out: folder to write.
        dtype: of the tensors on disk.
        force: write into a folder that holds something.
        hub: ``revision`` and ``local_files_only``.
    """

    source: str
    out: Path
    dtype: str = "float32"
    force: bool = False
    hub: dict[str, Any] = field(default_factory=dict)

    def run(self) -> int:
        """Load, write, and say what became of it; return the exit code.

        Raises:
            ConfigError: the folder to write holds something, or is the source.
        """
        if self.out.exists() and Path(self.source).is_dir() and self.out.samefile(self.source):
            raise ConfigError(f"{self.out} is the source itself: name another folder, so that the published one stays")
        if self.out.is_file() or (self.out.is_dir() and any(self.out.iterdir()) and not self.force):
            raise ConfigError(f"{self.out} is there already: name another folder, or pass --force to write into it")
        import torch

        from prunevid_qwen.stage2_select.glimpse import GlimpseVIP

        predictor = GlimpseVIP.from_pretrained(self.source, **self.hub)
        folder = predictor.save_pretrained(self.out, getattr(torch, self.dtype))
        vip = sum(parameter.numel() for parameter in predictor.vip.parameters())
        facts = predictor.facts
        written = folder / "model.safetensors"
        typer.echo(
            f"wrote {written} ({_size(written)}): {vip:,} parameters of the predictor and {facts.layers} glimpse "
            f"vectors of {facts.hidden_size} channels, {self.dtype}; for {facts.layers} layers, dropping after layer "
            f"{facts.reduce_layer}"
        )
        self._say_what_was_left(facts.hidden_size)
        return 0

    def _say_what_was_left(self, width: int) -> None:
        published = _published_file(self.source, self.hub.get("revision"))
        if published is not None:
            typer.echo(
                f"left out of {published.name} ({_size(published)}): le_proj and le_norm, "
                f"{width * width + 2 * width:,} parameters that make the glimpse vectors and are needed to train on, "
                "never to answer; learnable_embeddings, of which the vectors were made"
            )


def convert_glimpse(
    source: Annotated[str, typer.Argument(help="Published folder or hub id.", metavar="SOURCE")],
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="Of the tensors on disk; bfloat16 is half the size and rounds the glimpse vectors. Default: float32.",
            metavar="|".join(_DTYPES),
        ),
    ] = "float32",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds something.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit on the hub.", metavar="NAME")
    ] = None,
    local_files_only: Annotated[
        bool, typer.Option("--local_files_only", help="Never ask the network for the predictor.")
    ] = False,
) -> ConvertGlimpseRequest:
    """Say what is asked for; nothing runs here."""
    if dtype not in _DTYPES:
        raise ConfigError(f"--dtype is one of {', '.join(_DTYPES)}; got {quoted(dtype)}")
    hub = {"revision": revision, "local_files_only": local_files_only or None}
    return ConvertGlimpseRequest(source, out, dtype, force, {name: v for name, v in hub.items() if v is not None})


def register_convert_glimpse(app: typer.Typer) -> None:
    """Give the command line ``convert-glimpse``."""
    text = "Write a published glimpse predictor (config.json, new_modules_gp.pt) as safetensors: SOURCE OUT."
    app.command("convert-glimpse", help=text, epilog=_EPILOG, cls=PanelledCommand)(convert_glimpse)


def _size(path: Path) -> str:
    return size(path.stat().st_size)


def _published_file(source: str, revision: str | None) -> Path | None:
    """Find the published modules in a folder, or in the hub's cache that they were just read from."""
    name = "new_modules_gp.pt"
    if Path(source).is_dir():
        found: Any = Path(source) / name
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source, name, revision=revision)
    return Path(found) if isinstance(found, (str, Path)) and Path(found).is_file() else None
