"""A Ray cluster for a while: joined where there is one, else started on this machine."""

from __future__ import annotations

import importlib
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prunevid_qwen.errors import ConfigError, SetupError, quoted
from prunevid_qwen.processes.interruption import keeping_handlers

REPLICA_CPUS = 0.25
"""What a model reserves of a CPU. A fraction: on a small machine whole ones would leave none to those who read, and
both would wait forever. Another one than readers have, else Ray Data would make one process of both."""

PARTS = {"data": "ray", "serve": "serve-ray"}
"""Parts of Ray, and the extra that brings each."""

_MANY = 4  # CPUs of a machine from which a reader may have one of its own
_PATIENCE = 10  # seconds until a cluster's address has to answer; Ray itself waits for minutes


@dataclass(frozen=True)
class Cluster:
    """What all machines of a cluster have to offer."""

    cpus: float
    gpus: int
    largest: float  # CPUs of the machine that has most

    def device(self, asked: str | None) -> str:
        """Return where models run, "cuda" or "cpu", or raise; ``asked`` None is the GPU where there are any."""
        device = asked or ("cuda" if self.gpus else "cpu")
        if device not in ("cuda", "cpu"):
            raise ConfigError(
                f"under Ray device is cuda or cpu, got {quoted(device)}: Ray gives each replica a GPU of its own"
            )
        if device == "cuda" and not self.gpus:
            raise SetupError(
                f"device='cuda' was asked for, but the Ray cluster has {self.cpus:g} CPUs, no GPU: see `ray status`, "
                "or leave the device unset"
            )
        return device

    def replicas(self, asked: int | None, device: str) -> int:
        """Return how many models are loaded, or raise; None is one for each GPU (which may be on its way), or one."""
        count = asked or (self.gpus if device == "cuda" else 1)
        if count < 1:
            raise ConfigError(f"replicas is at least 1, got {asked}")
        room = int((self.cpus - self.reader_cpus()) / REPLICA_CPUS)
        if device == "cpu" and count > room:
            raise ConfigError(
                f"{count} replicas leave no CPU to read videos with: {self.cpus:g} CPUs have room for {max(room, 1)}; "
                "as many as there are CPUs keep them busy"
            )
        return count

    def reader_cpus(self) -> float:
        """Return what reading one task reserves of a CPU."""
        return 1.0 if self.largest >= _MANY else 0.5


@contextmanager
def joined(address: str | None = None, verbose: bool = False, part: str = "data") -> Iterator[Cluster]:
    """Be part of a Ray cluster; afterwards one that was started here is ended, one that was joined goes on.

    Args:
        address: "auto" (the one that this machine belongs to) or "host:port"; None starts one of this machine alone.
            Within another `joined`, or after ``ray.init``, that cluster is taken, and left as it is.
        verbose: show Ray's own log and what its workers print.
        part: of Ray, that is used: a key of `PARTS`.

    Raises:
        ConfigError, SetupError: an address of Ray Client; Ray is not installed, or nobody answers.
    """
    try:
        import ray

        importlib.import_module(f"ray.{part}")
    except ImportError as error:
        raise SetupError(
            f"the Ray engine needs ray.{part} ({error}): pip install 'prunevid_qwen[{PARTS[part]}]' on all machines of "
            "the cluster"
        ) from error
    started = not ray.is_initialized()
    if started:
        _start(ray, address, verbose)
    try:
        whole = ray.cluster_resources()
        machines = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        yield Cluster(whole.get("CPU", 0.0), int(whole.get("GPU", 0)), max(machines, default=0.0))
    finally:
        if started:
            ray.shutdown()


def _start(ray: Any, address: str | None, verbose: bool) -> None:
    if address is not None and "://" in address:
        raise ConfigError(
            f"the address of a Ray cluster is auto or host:port, got {quoted(address)}: Ray Client and its jobs' port "
            "do not carry Ray Data; run this on a machine of the cluster, or through `ray job submit`"
        )
    host, _, port = (address or "").rpartition(":")
    given: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    level = logging.INFO if verbose else logging.ERROR
    try:
        if host and port.isdigit():  # raises where nobody listens
            socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
        with keeping_handlers():  # Ray's own would end this process with the exit code 1, and not on the way out
            ray.init(**given, log_to_driver=verbose, logging_level=level)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:  # Ray raises all of them
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if address is None:
            raise SetupError(f"Ray does not start on this machine: {reason}") from error
        raise SetupError(
            f"no Ray cluster at {quoted(address)}: {reason}\nStart one (`ray start --head`, and elsewhere `ray start "
            "--address host:6379`, with the same Ray and Python), or leave the address out: then this machine is used "
            "alone. A cluster with a token wants its ~/.ray/auth_token here and RAY_AUTH_MODE=token"
        ) from error
