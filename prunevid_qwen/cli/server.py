"""``prunevid serve``: OpenAI's chat API with pruned answers, in batches and within limits."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.bundled import is_bundled
from prunevid_qwen.cli import ask
from prunevid_qwen.cli.groups import ModelOptions, read_key
from prunevid_qwen.cli.option import opt
from prunevid_qwen.cli.output import Done, Reporting
from prunevid_qwen.cli.pruning_options import CONFIG, PruningOptions
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import ConfigError

LISTENS, ASKED, LIMITS, CLUSTER = "Where it listens", "What requests may ask for", "Limits", "Ray Serve"


@dataclass(frozen=True)
class ListensOptions:
    """Where clients find the server, and who gets in."""

    host: str = opt("127.0.0.1", "0.0.0.0 lets other machines in. Default: 127.0.0.1.", "ADDRESS", LISTENS)
    port: int = opt(8000, "0 takes a free one. Default: 8000.", "INT", LISTENS, least=0)
    api_key: str | None = opt(None, "That requests have to name; others on this machine see it.", "KEY", LISTENS)
    api_key_file: Path | None = opt(None, "Holds the key alone, which nobody sees.", "FILE", LISTENS)
    drain_seconds: int = opt(30, "For answers under way after SIGTERM. Default: 30.", "INT", LISTENS, least=1)
    log_prompts: bool = opt(False, "Write questions and answers into the log, too.", None, LISTENS)

    @property
    def key(self) -> str | None:
        """The key, or None."""
        if self.api_key is not None and self.api_key_file is not None:
            raise ConfigError("--api_key and --api_key_file both name the key: pass one of them")
        if self.api_key == "":
            raise ConfigError("--api_key is empty: leave it out, or pass a key")
        return read_key(self.api_key_file, "--api_key_file") if self.api_key is None else self.api_key


@dataclass(frozen=True)
class AskedOptions:
    """What a request may ask for."""

    served_name: str | None = opt(None, "Of the model, for clients. Default: --model_path.", "NAME", ASKED)
    allow_config: list[str] | None = opt(None, "Preset that requests may name. Default: all.", "NAME", ASKED)
    allow_option: list[str] | None = opt(None, "Option that requests may set. Default: budgets.", "NAME", ASKED)
    allow_media_domain: list[str] | None = opt(None, "Whose https: addresses are opened. Default: none.", "NAME", ASKED)
    media_root: Path | None = opt(None, "Under which file: addresses are opened. Default: nowhere.", "FOLDER", ASKED)


@dataclass(frozen=True)
class LimitOptions:
    """How much is taken."""

    max_batch: int = opt(8, "Requests that are answered at once. Default: 8.", "INT", LIMITS, least=1)
    max_wait_ms: int = opt(5, "That a batch waits for more. Default: 5.", "INT", LIMITS, least=0)
    max_queue: int = opt(64, "Requests that may wait; more get 429. Default: 64.", "INT", LIMITS, least=0)
    max_answer_tokens: int = opt(1024, "Of one answer. Default: 1024.", "INT", LIMITS, least=1)
    max_prompt_tokens: int = opt(131072, "Before pruning. Default: 131072.", "INT", LIMITS, least=1)
    max_served_frames: int = opt(256, "Of one video. Default: 256.", "INT", LIMITS, least=2)
    max_seconds: int = opt(3600, "Of one video. Default: 3600.", "INT", LIMITS, least=1)
    max_frame_pixels: int = opt(3840 * 2160, "Of a frame or image. Default: 3840 x 2160.", "INT", LIMITS, least=1)
    max_body_megabytes: int = opt(64, "Of one request. Default: 64.", "INT", LIMITS, least=1)
    max_waiting_megabytes: int = opt(
        2048, "Of all requests inside, and of decoded media that wait. Default: 2048.", "INT", LIMITS, least=1
    )
    max_request_seconds: float = opt(
        300.0, "From its first byte to its last. Default: 300.", "SECONDS", LIMITS, least=1
    )
    max_decode_seconds: float = opt(60.0, "Of an image or video. Default: 60.", "SECONDS", LIMITS, least=1)
    max_memory_gb: float | None = opt(
        None, "Beside the weights and held videos. Default: what is free.", "FLOAT", LIMITS, least=0
    )
    cache_megabytes: int = opt(2048, "Encoded videos that are held. Default: 2048.", "INT", LIMITS, least=1)
    decoders: int = opt(2, "Processes that decode media. Default: 2.", "INT", LIMITS, least=1)


@dataclass(frozen=True)
class ClusterOptions:
    """Replicas of the model behind Ray Serve."""

    engine: str = opt("local", "local: one model here. ray: replicas on a cluster.", "local|ray", CLUSTER)
    ray_address: str | None = opt(None, "auto, or host:port. Default: a cluster of this machine.", "ADDRESS", CLUSTER)
    replicas: str = opt("1", "N, or N-M: so many at least and at most. Default: 1.", "N[-M]", CLUSTER)
    cpus_per_replica: float = opt(1.0, "Default: 1.", "FLOAT", CLUSTER, least=0)
    gpus_per_replica: float | None = opt(None, "Default: 1 where the cluster has GPUs.", "FLOAT", CLUSTER, least=0)

    @property
    def bounds(self) -> tuple[int, int]:
        """Replicas at least and at most."""
        least, dash, most = self.replicas.partition("-")
        if not least.isdigit() or (dash and not most.isdigit()) or not 0 < int(least) <= int(most or least):
            raise ConfigError(f"--replicas is N, or N-M with N at most M, such as 2 or 1-4; got {self.replicas!r}")
        return int(least), int(most or least)


def serve(
    *,
    config: str = CONFIG,
    listens: ListensOptions,
    asked: AskedOptions,
    limited: LimitOptions,
    cluster: ClusterOptions,
    model: ModelOptions,
    output: Reporting,
    pruning: PruningOptions,
) -> Done:
    """Serve OpenAI's chat API: pruned answers about videos and images, in batches, within limits.

    The server needs the extra serve: pip install 'prunevid_qwen[serve]'. Media
    come as data: URIs; https: and file: addresses are opened where --allow_media_domain
    and --media_root say so. Ctrl-C and SIGTERM answer what is inside, and end it.

    Examples:
      prunevid serve
      prunevid serve -m Qwen/Qwen2.5-VL-7B-Instruct --config recommended
      prunevid serve --host 0.0.0.0 --api_key_file key.txt
      prunevid serve --media_root /data/videos --max_batch 16
      prunevid serve --engine ray --replicas 2-8    one model on each GPU
      curl localhost:8000/health
    """
    built = build_config(config, pruning.given)
    bounds = cluster.bounds
    from prunevid_qwen.serve.listening import ListensAt, check_installed, log_to, run

    check_installed()
    from prunevid_qwen.serve.allowed_configs import BUDGETS, AllowedConfigs
    from prunevid_qwen.serve.http_app import served
    from prunevid_qwen.serve.limits import ServeLimits
    from prunevid_qwen.serve.media_addresses import MediaAddresses
    from prunevid_qwen.serve.memory_bound import free_bytes
    from prunevid_qwen.serve.request_rules import RequestRules

    limits = ServeLimits(
        body_megabytes=limited.max_body_megabytes, media_megabytes=limited.max_body_megabytes,
        waiting_megabytes=limited.max_waiting_megabytes,
        video_seconds=limited.max_seconds, frames=limited.max_served_frames, pixels=limited.max_frame_pixels,
        prompt_tokens=limited.max_prompt_tokens, answer_tokens=limited.max_answer_tokens, batch=limited.max_batch,
        waiting=limited.max_queue, wait_ms=limited.max_wait_ms, request_seconds=limited.max_request_seconds,
        decode_seconds=limited.max_decode_seconds,
    )  # fmt: skip
    given = {name: value for name, value in pruning.given.items() if value is not None}
    allowed = AllowedConfigs(config, given, frames=limits.frames)
    if asked.allow_config is not None:
        allowed = AllowedConfigs(config, given, tuple(asked.allow_config), frames=limits.frames)
    if asked.allow_option is not None:
        allowed = AllowedConfigs(config, given, allowed.presets, (*BUDGETS, *asked.allow_option), limits.frames)
    root = asked.media_root
    if root is not None and not root.is_dir():
        raise ConfigError(f"--media_root {str(root)!r} is no folder")
    domains = frozenset(asked.allow_media_domain or ())
    addresses = MediaAddresses(domains, None if root is None else root.resolve(), limits.media_megabytes * 10**6)
    rules = RequestRules(asked.served_name or model.model_path, allowed, limits)
    at, key = ListensAt(listens.host, listens.port, listens.drain_seconds, max(512, 2 * limits.places)), listens.key
    listening = at.listening()
    if is_bundled(model.model_path):
        output.note(typer.style(f"note: {ask.TOY.format(model.model_path)}", fg="yellow"))
    if not at.local and key is None:
        output.note(
            typer.style("note: all who reach this machine may ask: --api_key_file has them name a key", fg="yellow")
        )
    output.calm_libraries()
    log_to()
    held = limited.cache_megabytes * 10**6
    free = None if limited.max_memory_gb is None else int(limited.max_memory_gb * 1e9)
    with contextlib.ExitStack() as stack:
        engine: Any
        if cluster.engine == "ray":
            from prunevid_qwen.evaluation.engine.ray_cluster import joined

            output.note("starting Ray Serve")
            machines = stack.enter_context(joined(cluster.ray_address, output.verbose, "serve"))
            from prunevid_qwen.serve.ray_engine import RayEngine, ReplicaPlan

            gpus = float(machines.gpus > 0) if cluster.gpus_per_replica is None else cluster.gpus_per_replica
            engine = RayEngine(ReplicaPlan(
                model.model_path, model.loading, built.to_json(), rules, held, free, limited.decoders, bounds,
                cluster.cpus_per_replica, gpus,
            ))  # fmt: skip
        else:
            from prunevid_qwen.serve.served_model import ServedModel

            output.note("loading the model")
            loaded = ask.load(model, built, {"video_path": None})
            free = max(0, free_bytes(loaded.model) - held) if free is None else free
            engine = ServedModel(loaded, rules, held, free, limited.decoders)
            if not engine.line.memory.counted:
                output.note("the memory of this family is not counted: --max_batch and --max_served_frames bound it")

        def ready(url: str) -> None:
            said = json.dumps({"url": f"{url}/v1", "model": rules.name, "config": config})
            typer.echo(said if output.as_json else f"the server is at {url}/v1, model {rules.name}", file=output.stdout)
            output.stdout.flush()
            output.note("Ctrl-C ends it")

        run(lambda draining: served(engine, rules, addresses, key=key, local=at.local, log_prompts=listens.log_prompts,
                                    draining=draining), at, listening, ready)  # fmt: skip
    return Done(text="")
