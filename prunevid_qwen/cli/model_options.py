"""Options that every command with a model has: where it runs and how it is loaded."""

from __future__ import annotations

from typing import Annotated

import typer

MODEL = "Model"
"""The panel in --help that they stand in."""

Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="cuda, cuda:1, cpu ... Default: a GPU if there is one.", metavar="NAME", rich_help_panel=MODEL
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="bfloat16, float16, float32. Default: the checkpoint's.",
        metavar="NAME",
        rich_help_panel=MODEL,
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        "--attn_implementation", help="sdpa, eager or flash_attention_2.", metavar="NAME", rich_help_panel=MODEL
    ),
]
Revision = Annotated[
    str | None,
    typer.Option("--revision", help="Branch, tag or commit on the hub.", metavar="NAME", rich_help_panel=MODEL),
]
LocalFilesOnly = Annotated[
    bool, typer.Option("--local_files_only", help="Never ask the network for a model.", rich_help_panel=MODEL)
]
