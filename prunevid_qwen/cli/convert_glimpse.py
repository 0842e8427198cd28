"""``prunevid convert-glimpse``: a published glimpse predictor into the form that this package writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.output import Done, Reporting
from prunevid_qwen.config.amounts import size
from prunevid_qwen.errors import ConfigError, quoted

EXAMPLES = """\
[bold]Examples[/bold]
  prunevid convert-glimpse ashun989/GlimpsePrune_Qwen2.5-VL-7B-Instruct glimpse_7b
  prunevid convert-glimpse ./downloaded glimpse_7b --dtype bfloat16
  prunevid convert-glimpse runs/mine mine_gp --to_published     a run of train glimpse, as the authors publish theirs
  prunevid ask ... --selector glimpse --glimpse_path glimpse_7b

The published folder works as it is too; ours is safetensors instead of a pickle, and smaller.
"""
_DTYPES = ("float32", "bfloat16")


def convert_glimpse(
    *,
    source: str = word(..., "SOURCE", "Published folder or hub id."),
    out: Path = word(..., "OUT", "Folder to write."),
    dtype: str = opt(
        "float32",
        "Of the tensors on disk; bfloat16 is half the size and rounds the glimpse vectors. Default: float32.",
        "|".join(_DTYPES),
    ),
    to_published: bool = opt(
        False, "Write the authors' form, of a run of `train glimpse`: SOURCE is the run's folder."
    ),
    force: bool = opt(False, "Write into a folder that holds something."),
    revision: str | None = opt(None, "Branch, tag or commit on the hub.", "NAME"),
    local_files_only: bool = opt(False, "Never ask the network for the predictor."),
    output: Reporting,
) -> Done:
    """Write a published glimpse predictor (config.json, new_modules_gp.pt) as safetensors, or back: SOURCE OUT."""
    if dtype not in _DTYPES:
        raise ConfigError(f"--dtype is one of {', '.join(_DTYPES)}; got {quoted(dtype)}")
    if out.exists() and Path(source).is_dir() and out.samefile(source):
        raise ConfigError(f"{out} is the source itself: name another folder, so that the published one stays")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not force):
        raise ConfigError(f"{out} is there already: name another folder, or pass --force to write into it")
    import torch

    if to_published:
        from prunevid_qwen.training.glimpse.published_form import trained, write_published

        write_published(trained(Path(source)), out, getattr(torch, dtype))
        return Done({"out": str(out)}, lambda: typer.echo(f"wrote {out}: config.json, new_modules_gp.pt, {dtype}"))
    from prunevid_qwen.stage2_select.glimpse import GlimpseVIP

    given: dict[str, Any] = {"revision": revision} if revision else {}
    predictor = GlimpseVIP.from_pretrained(source, local_files_only=local_files_only, **given)
    written = predictor.save_pretrained(out, getattr(torch, dtype)) / "model.safetensors"
    facts, published = predictor.facts, _published_file(source, revision)
    vip = sum(parameter.numel() for parameter in predictor.vip.parameters())
    lines = [
        f"wrote {written} ({size(written.stat().st_size)}): {vip:,} parameters of the predictor and {facts.layers} "
        f"glimpse vectors of {facts.hidden_size} channels, {dtype}; for {facts.layers} layers, dropping after layer "
        f"{facts.reduce_layer}"
    ]
    if published is not None:
        width = facts.hidden_size
        lines.append(
            f"left out of {published.name} ({size(published.stat().st_size)}): le_proj and le_norm, "
            f"{width * width + 2 * width:,} parameters that make the glimpse vectors and are needed to train on, "
            "never to answer; learnable_embeddings, of which the vectors were made"
        )
    told = {"out": str(written), "bytes": written.stat().st_size, "parameters": vip, "layers": facts.layers}
    return Done(told, lambda: typer.echo("\n".join(lines)))


def _published_file(source: str, revision: str | None) -> Path | None:
    """Find the published modules in a folder, or in the hub's cache that they were just read from."""
    name = "new_modules_gp.pt"
    if Path(source).is_dir():
        found: Any = Path(source) / name
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source, name, revision=revision)
    return Path(found) if isinstance(found, (str, Path)) and Path(found).is_file() else None
