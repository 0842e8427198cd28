"""RayEngine: replicas of the model behind Ray Serve, each with its own GPU; the HTTP side stays in the command.

A request goes to the replica that has seen its video: the hash of the content is what Ray Serve calls a multiplexed
model id. A request whose replica dies before the first word is answered by another; after it the client is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.serve.api_errors import ApiError, api_error
from prunevid_qwen.serve.chat_request import ChatRequest
from prunevid_qwen.serve.media_addresses import MediaContent
from prunevid_qwen.serve.request_rules import RequestRules
from prunevid_qwen.serve.served_model import AnswerPart, ServedModel

APP = "prunevid"
_TRIES = 3
_WARM = 256  # videos that the router knows of a replica


@dataclass(frozen=True)
class ReplicaPlan:
    """What each replica does.

    Args:
        model_path: as `PrunedVLM` takes it; each machine of the cluster needs it.
        loading: arguments of ``from_pretrained``.
        config: the server's, as JSON.
        rules: what requests may ask for.
        held_bytes: of encoded media and prefixes.
        free_bytes: beside them and the weights; None: what is free when the model is loaded.
        decoders: processes that decode media.
        bounds: replicas at least and at most.
        cpus: of a replica.
        gpus: of a replica.
    """

    model_path: str
    loading: dict[str, Any]
    config: str
    rules: RequestRules
    held_bytes: int
    free_bytes: int | None
    decoders: int
    bounds: tuple[int, int]
    cpus: float
    gpus: float


class Replica:
    """One model in a process of Ray Serve.

    Args:
        plan: what it does.
    """

    async def __init__(self, plan: ReplicaPlan) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        from prunevid_qwen.model import PrunedVLM
        from prunevid_qwen.serve.memory_bound import free_bytes

        own = PruneVidConfig.from_json(plan.config)
        model = await asyncio.to_thread(PrunedVLM, plan.model_path, own, **plan.loading)
        free = free_bytes(model.model) - plan.held_bytes if plan.free_bytes is None else plan.free_bytes
        self._served = ServedModel(model, plan.rules, plan.held_bytes, max(0, free), plan.decoders)
        await self._served.start()

    async def answer(
        self, request: ChatRequest, contents: list[MediaContent]
    ) -> AsyncGenerator[AnswerPart | ApiError, None]:
        """Yield the parts of a request's answers; what is wrong with it is the last part."""
        if serve.get_multiplexed_model_id():
            await self.seen(serve.get_multiplexed_model_id())
        parts = self._served.answer(request, contents)
        try:
            async for part in parts:
                yield part
        except Exception as error:
            told = api_error(error)
            if told.status >= 500:
                logging.getLogger("ray.serve").exception("a request was not answered")
            yield told
        finally:
            await parts.aclose()

    @serve.multiplexed(max_num_models_per_replica=_WARM)
    async def seen(self, digest: str) -> str:
        """Let the router know that this replica holds a video."""
        return digest

    async def facts(self) -> dict[str, Any]:
        """Return what is told of this replica."""
        return self._served.facts()


class RayEngine:
    """Hands requests to replicas; inside `prunevid_qwen.evaluation.engine.ray_cluster.joined`.

    Args:
        plan: of each replica.
    """

    def __init__(self, plan: ReplicaPlan) -> None:
        self._plan = plan
        self._handle: Any = None

    async def start(self) -> None:
        """Start the replicas, and wait until the first ones answer."""
        least, most = self._plan.bounds
        limits = self._plan.rules.limits
        scaling: dict[str, Any] = {"num_replicas": least} if least == most else {
            "autoscaling_config": {
                "min_replicas": least, "max_replicas": most, "initial_replicas": least,
                "target_ongoing_requests": limits.batch,
            }
        }  # fmt: skip
        actor = {"num_cpus": self._plan.cpus, "num_gpus": self._plan.gpus}
        deployed = serve.deployment(
            Replica, name=APP, ray_actor_options=actor, max_ongoing_requests=limits.places,
            graceful_shutdown_timeout_s=30, health_check_period_s=2, **scaling,
        ).bind(self._plan)  # fmt: skip

        def up() -> Any:
            serve.start(proxy_location="Disabled")
            return serve.run(deployed, name=APP, route_prefix=None)

        self._handle = await asyncio.to_thread(up)

    async def stop(self) -> None:
        """End the replicas."""
        await asyncio.to_thread(serve.shutdown)

    def facts(self) -> dict[str, Any]:
        """Return what is told of it in /health."""
        least, most = self._plan.bounds
        return {"engine": "ray", "replicas_least": least, "replicas_most": most}

    async def answer(self, request: ChatRequest, contents: list[MediaContent]) -> AsyncGenerator[AnswerPart, None]:
        """Yield the parts of a request's answers, of one replica; see the module.

        Raises:
            ApiError: it cannot be answered.
        """
        assert self._handle is not None, "start() comes first"
        warm = contents[0].digest if contents else ""
        for tried in range(_TRIES):
            stream = self._handle.options(method_name="answer", stream=True, multiplexed_model_id=warm).remote(
                request, contents
            )
            begun = False
            try:
                async for part in stream:
                    if isinstance(part, ApiError):
                        raise part
                    begun = True
                    yield part
                return
            except (RayActorError, DeploymentUnavailableError) as error:
                if begun:
                    raise ApiError(503, "the machine that wrote this answer has gone: ask again", "replica_gone",
                                   retry_after=1) from error  # fmt: skip
                await asyncio.sleep(0.2 * 2**tried)
            except BackPressureError as error:
                raise ApiError(
                    429, "all places are taken: try again in a moment", "queue_full", retry_after=1
                ) from error
            finally:
                with suppress(Exception):
                    stream.cancel()
        raise ApiError(503, "no machine answers at the moment: ask again", "replica_gone", retry_after=5)
