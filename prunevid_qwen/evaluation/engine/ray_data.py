"""The engine of many machines: media read on their CPUs, a model on each of their GPUs, lines back to this process.

Ray Data moves the tasks: each is a block of its own, so that it is read, answered and retried by itself, and so that
what is read waits in the machines' shared memory within the bounds that Ray Data sets, however far ahead readers are.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import platform
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from prunevid_qwen.errors import PruneVidError, SetupError
from prunevid_qwen.evaluation.accuracy_folder import code_digest
from prunevid_qwen.evaluation.engine.asking import Answerer, Answering
from prunevid_qwen.evaluation.engine.ray_cluster import (
    REPLICA_CPUS,
    REPLICA_CPUS_ON_GPU,
    import_ray,
    joined,
)
from prunevid_qwen.evaluation.engine.reading import Read, Reading, read_media
from prunevid_qwen.evaluation.engine.tasks import Line, Task
from prunevid_qwen.receipt import versions

Row = dict[str, Any]
Same = tuple[tuple[str, str], ...]
"""Name and version of what has to be the same on every machine."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done and how much there is."""

RETRIES = 2
"""How often a task is tried again when the process that had it died, before it is taken to be the reason."""

# While one is answered the next is on its way. The second pass sends one at a time, so that whoever shared a process
# with a task that kills it is not taken for a killer too.
_IN_FLIGHT = (2, 1)

_THREADS_BESIDE_GPU = 4  # Ray leaves one; cutting frames into patches is arithmetic without sums, equal under any
_LARGEST = 2**31 - 2**20  # bytes of a value in one of Arrow's binary columns


def run_on_ray(
    tasks: Sequence[Task],
    reading: Reading,
    answering: Answering,
    *,
    address: str | None = None,
    replicas: int | None = None,
    readers: int | None = None,
    reader_cpus: float | None = None,
    verbose: bool = False,
    tell: Progress = lambda *_: None,
) -> Iterator[Line]:
    """Answer tasks on a Ray cluster, in the order in which they are done; all lines of a task come together.

    Each task is answered once, whatever dies. What was with a process that died is tried again, up to `RETRIES` times
    on whatever machine has room, then once more as often alone; a task that kills its process every time becomes an
    error of its questions.

    Args:
        tasks: each answered once.
        reading, answering: how media are read, and who answers; both travel to every machine.
        address: as in `joined`.
        replicas: models; None is one for each GPU of the cluster, one where there is none.
        readers: tasks that are read at once; None is as many as CPUs are free.
        reader_cpus: what each of them reserves; None is a CPU, half of one on small machines.
        verbose: show Ray's own log.
        tell: told when the cluster and the first model are there.

    Raises:
        PruneVidError: what was raised on any machine, as itself.
        SetupError: no cluster, one that broke down, or machines on which other code is installed.
    """
    ray = import_ray()
    tell("starting Ray", 0, 1)
    with joined(address, verbose) as cluster, _quiet(verbose):
        tell("starting Ray", 1, 1)
        device = cluster.device(answering.loading.get("device"))
        count = cluster.replicas(replicas, device)
        answering = replace(answering, loading={**answering.loading, "device": device})
        cpus = reader_cpus or cluster.reader_cpus()
        left = dict(enumerate(tasks))
        try:
            for in_flight in _IN_FLIGHT:
                if not left:
                    return
                few = min(count, len(left))
                pipeline = _pipeline(ray, left, reading, answering, few, readers, cpus, in_flight)
                with contextlib.closing(_made(pipeline)) as rows:
                    for number, made in rows:
                        if left.pop(number, None) is not None:
                            yield from made
        except ray.exceptions.RayError as error:
            raise SetupError(
                f"the Ray cluster broke down ({type(error).__name__}: {str(error).strip().splitlines()[0]}): what was "
                "answered is kept; see `ray status`, and run again to go on"
            ) from error
        for task in left.values():
            yield from _killers(task)


def _pipeline(
    ray: Any,
    left: dict[int, Task],
    reading: Reading,
    answering: Answering,
    replicas: int,
    readers: int | None,
    reader_cpus: float,
    in_flight: int,
) -> Any:
    dumps = ray.cloudpickle.dumps  # unlike pickle it carries what was defined in a notebook
    rows = [{"number": number, "task": dumps(task)} for number, task in left.items()]
    same = _installed()
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    # a task whose process died too often is left out; what a task raised comes back as a row
    data.context.max_errored_blocks = -1
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    on_gpu = answering.loading["device"] == "cuda"
    return data.map(
        _read,
        fn_kwargs={"reading": dumps(reading), "same": same},
        compute=ray.data.TaskPoolStrategy(size=readers),
        num_cpus=reader_cpus,
        # given anew to each process: these are the defaults of Ray Data but for the limit
        ray_remote_args_fn=lambda: {"max_retries": RETRIES},
    ).map(
        _Replica,
        fn_constructor_args=(dumps(answering), same),
        compute=ray.data.ActorPoolStrategy(size=replicas, max_tasks_in_flight_per_actor=in_flight),
        num_cpus=REPLICA_CPUS_ON_GPU if on_gpu else REPLICA_CPUS,
        num_gpus=1 if on_gpu else 0,
        ray_remote_args_fn=lambda: {"max_restarts": -1, "max_task_retries": RETRIES},
    )


def _made(pipeline: Any) -> Iterator[tuple[int, list[Line]]]:
    """Yield the number and the lines of each task as soon as they are there; raise what a task raised."""
    from ray import cloudpickle

    # nothing is fetched ahead: what is made is stored at once
    batches = pipeline.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")
    for batch in batches:
        for row in batch.to_pylist():
            if row["fault"] is not None:
                fault, where = cloudpickle.loads(row["fault"])
                raise fault from _Elsewhere(where)
            yield row["number"], json.loads(row["made"])


def _read(row: Row, reading: bytes, same: Same) -> Row:
    """Read the media of a task; runs in whatever process Ray has for it."""
    from ray import cloudpickle

    def read() -> bytes:
        found = read_media(_reading_of(reading, same), cloudpickle.loads(row["task"]).media)
        dumped: bytes = cloudpickle.dumps(found)
        if len(dumped) > _LARGEST:
            said = f"its frames are {len(dumped) / 2**30:.1f} GiB, and Ray carries 2: take fewer or smaller ones"
            dumped = cloudpickle.dumps(Read((), said, found.seconds))
        return dumped

    return {**row, **_caught("read", read)}


@functools.cache
def _reading_of(pickled: bytes, same: Same) -> Reading:
    import torch
    from ray import cloudpickle

    _check_same(same)
    torch.set_num_threads(1)  # readers are as many as CPUs
    reading: Reading = cloudpickle.loads(pickled)
    return reading


class _Replica:
    """A model that answers tasks; lives in a process of its own."""

    def __init__(self, answering: bytes, same: Same) -> None:
        self._answerer: Answerer | None = None
        self._loaded = _caught("made", lambda: self._load(answering, same))

    def _load(self, pickled: bytes, same: Same) -> None:
        import torch
        from ray import cloudpickle

        _check_same(same)
        answering = cloudpickle.loads(pickled)
        if answering.loading["device"] == "cuda":
            torch.set_num_threads(_THREADS_BESIDE_GPU)
        self._answerer = answering.load()

    def __call__(self, row: Row) -> Row:
        from ray import cloudpickle

        def answer() -> str:
            assert self._answerer is not None
            return json.dumps(
                list(self._answerer.answer(cloudpickle.loads(row["task"]), cloudpickle.loads(row["read"])))
            )

        before = next((each["fault"] for each in (self._loaded, row) if each["fault"] is not None), None)
        made = _caught("made", answer) if before is None else {"made": None, "fault": before}
        return {"number": row["number"], **made}


class _Elsewhere(Exception):
    """Where an error came from: the traceback of another process, as text."""


def _caught(name: str, work: Callable[[], Any]) -> Row:
    """Return what work returns under a name, or what it raises under "fault", in a shape that travels."""
    from ray import cloudpickle

    try:
        return {name: work(), "fault": None}
    except Exception as error:
        where = f"on {_machine()}:\n{traceback.format_exc()}"
        plain = error if isinstance(error, PruneVidError) else RuntimeError(f"{type(error).__name__}: {error}")
        return {name: None, "fault": cloudpickle.dumps((plain.with_traceback(None), where))}


def _check_same(same: Same) -> None:
    for (name, wanted), (_, here) in zip(same, _installed(), strict=True):
        if here != wanted:
            what = "other code of prunevid_qwen" if name == "code" else f"{name} {here}, not {wanted}"
            raise SetupError(
                f"{_machine()} has {what}: answers of both do not belong into one table; install the same on every "
                "machine of the cluster"
            )


def _installed() -> Same:
    return (*versions().items(), ("code", code_digest()))


def _machine() -> str:
    return platform.node()


def _killers(task: Task) -> Iterator[Line]:
    paths = ", ".join(media.path for media in task.media) or "no media"
    error = (
        f"whatever process read {paths} or was asked about it died, {1 + RETRIES} times beside others and as often alone: "
        "out of memory, or a fault of a decoder or driver"
    )
    for question, names in task.questions:
        for name in names:
            yield {**question.about(), "config": name, "error": error}


@contextlib.contextmanager
def _quiet(verbose: bool) -> Iterator[None]:
    """Keep Ray Data from telling on the terminal of each step that it takes."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    if not verbose:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
