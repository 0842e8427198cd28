"""Groups of options that several commands share: the model, the engine, a judge, a training."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import BUNDLED, TOYS
from prunevid_qwen.cli.option import opt
from prunevid_qwen.cli.output import Reporting
from prunevid_qwen.errors import ConfigError, quoted

MODEL, ENGINE, JUDGE, TRAINING = "Model", "Engine", "Judge", "Training"

_MODEL_HELP = (
    "Hub id or folder. Videos and images: Qwen3-VL and Qwen3-VL-MoE, Qwen3.5 and Qwen3.5-MoE, Qwen2.5-VL, Qwen2-VL, "
    "LLaVA-OneVision, LLaVA-NeXT-Video, Video-LLaVA, InternVL. Images alone: LLaVA-NeXT, LLaVA-1.5. `prunevid models` "
    f"has more. {' and '.join(TOYS)} are toys that know moving coloured shapes and nothing else. Default: {BUNDLED}."
)
_WORKERS = "Processes that read ahead; 0: a thread. Default: the CPUs less one, at most 4; on Ray all that are free."


def read_key(path: Path | None, option: str) -> str | None:
    """Return the key in a file; None without a file.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    if path is None:
        return None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"cannot read {option} {path} ({error.strerror})") from None
    if not key:
        raise ConfigError(f"{option} {path} is empty: it holds the key alone, on one line")
    return key


@dataclass(frozen=True)
class ModelOptions:
    """Which model answers, and how it is loaded."""

    model_path: str = opt(BUNDLED, _MODEL_HELP, "ID|FOLDER", MODEL, short="-m")
    device: str | None = opt(None, "cuda, cuda:1, cpu ... Default: a GPU if there is one.", "NAME", MODEL)
    dtype: str | None = opt(None, "bfloat16, float16, float32. Default: the checkpoint's.", "NAME", MODEL, rest=True)
    attn_implementation: str | None = opt(None, "sdpa, eager or flash_attention_2.", "NAME", MODEL, rest=True)
    revision: str | None = opt(None, "Branch, tag or commit on the hub.", "NAME", MODEL, rest=True)
    local_files_only: bool = opt(False, "Never ask the network for a model.", None, MODEL, rest=True)

    @property
    def loading(self) -> dict[str, Any]:
        """The arguments of ``from_pretrained``; None means its default."""
        return {name: value for name, value in vars(self).items() if name not in ("model_path", "glimpse_path")}


@dataclass(frozen=True)
class EngineOptions:
    """Where a run answers: this machine's one model, or a Ray cluster's."""

    engine: str = opt("local", "local: this machine's one model. ray: a cluster's.", "local|ray", ENGINE)
    workers: int | None = opt(None, _WORKERS, "INT", ENGINE, least=0)
    ray_address: str | None = opt(None, "auto, or host:port. Default: a cluster of this machine.", "ADDRESS", ENGINE)
    replicas: int | None = opt(None, "Models on the cluster. Default: one for each GPU.", "INT", ENGINE, least=1)

    def __post_init__(self) -> None:
        if self.engine != "ray" and (self.ray_address or self.replicas):
            raise ConfigError("--ray_address and --replicas are for --engine ray")
        if self.engine == "ray" and self.workers == 0:
            raise ConfigError("--workers 0 reads in a thread of this process, which Ray cannot: pass 1 or more")

    @contextmanager
    def running(self, output: Reporting, where: Path, model: ModelOptions) -> Iterator[tuple[Any, Any, str]]:
        """Yield what is told of progress, the engine, and the device that answers: part of a run's identity."""
        with output.running(where, model.model_path) as bars:
            if self.engine == "local":
                from prunevid_qwen.evaluation.engine.local import here
                from prunevid_qwen.loading import choose_device

                workers = max(1, min(4, (os.cpu_count() or 2) - 1)) if self.workers is None else self.workers
                yield bars.tell, here(workers), choose_device(model.device)
                return
            from prunevid_qwen.evaluation.engine.ray_cluster import joined

            bars.tell("starting Ray", 0, 1)
            with joined(self.ray_address, output.verbose) as cluster:
                from prunevid_qwen.evaluation.engine.ray_data import run_on_ray  # imports Ray, which `joined` asks for

                bars.tell("starting Ray", 1, 1)
                how: dict[str, Any] = {"replicas": self.replicas, "readers": self.workers, "verbose": output.verbose}
                yield bars.tell, functools.partial(run_on_ray, **how), cluster.device(model.device)


@dataclass(frozen=True)
class ShardedEngineOptions(EngineOptions):
    """The same, of a run whose folder several processes may share."""

    shard: str = opt("0/1", "This process's share of a run whose folder several share, from 0/N.", "I/N", ENGINE)

    def __post_init__(self) -> None:
        super().__post_init__()
        number, _, count = self.shard.partition("/")
        if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
            raise ConfigError(f"shard is I/N with I from 0 to N - 1, such as 0/2 and 1/2; got {quoted(self.shard)}")

    @property
    def share(self) -> tuple[int, int]:
        """Which share, of how many."""
        number, count = self.shard.split("/")
        return int(number), int(count)


@dataclass(frozen=True)
class JudgeOptions:
    """A language model behind an OpenAI-compatible endpoint, that marks free answers."""

    judge_base_url: str = opt("", "OpenAI-compatible endpoint, such as http://localhost:8000/v1.", "URL", JUDGE)
    judge_model: str = opt("", "As that endpoint calls it.", "NAME", JUDGE)
    judge_api_key_file: Path | None = opt(None, "Holds the key alone. Default: none is needed.", "FILE", JUDGE)
    judge_workers: int = opt(4, "Requests at once. Default: 4.", "INT", JUDGE, least=1)
    judge_timeout: float = opt(60.0, "Until a request is given up. Default: 60.", "SECONDS", JUDGE, least=1)
    judge_retries: int = opt(4, "Of a failed request, waiting longer each time. Default: 4.", "INT", JUDGE, least=0)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `Judge`, {} where none was named, or raise `ConfigError`."""
        url, model, path = self.judge_base_url, self.judge_model, self.judge_api_key_file
        if not url and not model:
            return {}
        if not (url and model):
            raise ConfigError(f"a judge needs --{'judge_model' if url else 'judge_base_url'} too: they belong together")
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--judge_base_url is an address such as http://localhost:8000/v1, got {quoted(url)}")
        found: dict[str, Any] = {"base_url": url.rstrip("/"), "model": model}
        found |= {"timeout": self.judge_timeout, "retries": self.judge_retries}
        key = read_key(path, "--judge_api_key_file")
        return found if key is None else {**found, "api_key": key}


@dataclass(frozen=True)
class TrainingOptions:
    """How a training runs, whatever it trains."""

    no_check: bool = opt(False, "Do not look at the records before training.", None, TRAINING)
    restart: bool = opt(False, "Throw away what the folder holds.", None, TRAINING)
    dry_run: bool = opt(False, "Only look at every record and say what is wrong (exit code 4).", None, TRAINING)
    device: str | None = opt(None, "cpu leaves a GPU alone. Default: what accelerate finds.", "cpu", TRAINING)
    threads: int | None = opt(None, "Of torch on the CPU. Default: torch's.", "INT", TRAINING, least=1)

    def __post_init__(self) -> None:
        if self.dry_run and self.no_check:
            raise ConfigError("--dry_run and --no_check contradict each other: pass one of them")
        if self.device not in (None, "cpu"):
            others = "GPUs are chosen with CUDA_VISIBLE_DEVICES or by accelerate launch"
            raise ConfigError(f"--device takes cpu, got {quoted(self.device)}: {others}")
