"""``prunevid app``: a page for the browser, on which one asks about videos and images and sees what was kept."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import typer

from prunevid_qwen.bundled import BUNDLED, is_bundled
from prunevid_qwen.cli import ask
from prunevid_qwen.cli.groups import ModelOptions, read_key
from prunevid_qwen.cli.option import opt
from prunevid_qwen.cli.output import Done, Reporting
from prunevid_qwen.cli.pruning_options import CONFIG, PruningOptions
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import ConfigError

_LOOPBACK = "127.0.0.1"
UPLOADS, ADDRESS = "Uploads", "Where the page is"


@dataclass(frozen=True)
class UploadOptions:
    """What may be uploaded."""

    max_megabytes: int = opt(200, "Of one file. Default: 200.", "INT", UPLOADS, least=1)
    max_seconds: int = opt(600, "Of one video. Default: 600.", "INT", UPLOADS, least=1)
    max_frame_pixels: int = opt(3840 * 2160, "Of a frame or an image. Default: 3840 x 2160.", "INT", UPLOADS, least=1)
    max_images: int = opt(8, "In one question. Default: 8.", "INT", UPLOADS, least=1)


@dataclass(frozen=True)
class AddressOptions:
    """Where browsers find the page."""

    host: str = opt(_LOOPBACK, f"0.0.0.0 lets other machines in. Default: {_LOOPBACK}.", "ADDRESS", ADDRESS)
    port: int | None = opt(None, "Default: a free one from 7860 on.", "INT", ADDRESS, least=1)
    share: bool = opt(False, "Open a tunnel through Gradio's servers, for all who know its address.", None, ADDRESS)
    server: str | None = opt(None, "Ask this running `prunevid serve`; no model is loaded here.", "URL", ADDRESS)
    server_key_file: Path | None = opt(None, "Holds the key that the server wants.", "FILE", ADDRESS)
    queue: int = opt(16, "Questions that may wait; more are refused. Default: 16.", "INT", ADDRESS, least=1)


def app(
    *,
    config: str = CONFIG,
    cache_megabytes: int = opt(
        2048, "Encoded videos and their prompts that are held for later questions. Default: 2048.", "INT", least=1
    ),
    uploads: UploadOptions,
    address: AddressOptions,
    model: ModelOptions,
    output: Reporting,
    pruning: PruningOptions,
) -> Done:
    """Open a page for the browser: upload a video, ask, and see the pruned and the unpruned answer and what was kept.

    The page needs the extra app: pip install 'prunevid_qwen[app]'. It opens
    files that were uploaded to it, and no path or address that a browser
    names. Uploads are deleted when it closes. Ctrl-C closes it.

    Examples:
      prunevid app
      prunevid app -m Qwen/Qwen2.5-VL-7B-Instruct --config recommended
      prunevid app --server http://127.0.0.1:8000/v1    of a running prunevid serve
      prunevid app --port 8080 --max_seconds 60
      prunevid app --keep_ratio 0.2             over each preset that is chosen on the page
      python demo.py --app                      the same
    """
    built = build_config(config, pruning.given)
    from prunevid_qwen.app.launching import Address, check_installed, opened, wait_for_the_end
    from prunevid_qwen.app.method_controls import Choices
    from prunevid_qwen.app.uploads import UploadLimits

    check_installed()
    if address.server is not None and model.model_path != BUNDLED:
        raise ConfigError("--server has its own model: leave --model_path out")
    limits = UploadLimits(
        uploads.max_megabytes, uploads.max_seconds, uploads.max_frame_pixels, uploads.max_images
    )  # fmt: skip
    given = {name: value for name, value in pruning.given.items() if value is not None}
    where = Address(address.host, address.port, address.share, address.queue)
    if address.server is None:
        from prunevid_qwen.app.side_by_side import SideBySide

        output.note("loading the model")
        output.calm_libraries()
        loaded = ask.load(model, built, {"video_path": None}, video_cache_bytes=cache_megabytes * 10**6)
        answers, name = SideBySide(loaded), model.model_path
    else:
        from prunevid_qwen.app.from_server import FromServer

        asked = FromServer(address.server, read_key(address.server_key_file, "--server_key_file"))
        answers, name = asked, asked.name
    toy = is_bundled(name)
    if toy:
        output.note(typer.style(f"note: {ask.TOY.format(name)}", fg="yellow"))
    with opened(answers, Choices(config, given), limits, where, name, toy, output.note) as url:
        said = json.dumps({"url": url, "model": name, "config": config})
        typer.echo(said if output.as_json else f"the page is at {url}", file=output.stdout)
        output.stdout.flush()
        output.note("Ctrl-C closes it")
        wait_for_the_end()
    return Done(text="")
