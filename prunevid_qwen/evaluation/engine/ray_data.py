"""The engine of many machines: media read on their CPUs, a model on each of their GPUs, lines back to this process.

Each task is a block of Ray Data of its own, so that what is read waits within the bounds that Ray Data sets.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import platform
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.data
from ray import cloudpickle  # unlike pickle it carries what was defined in a notebook

from prunevid_qwen.bundled import is_bundled
from prunevid_qwen.errors import PruneVidError, SetupError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.process_pool import Plugins, load_once
from prunevid_qwen.evaluation.engine.ray_cluster import REPLICA_CPUS, joined
from prunevid_qwen.evaluation.engine.task import Line, Task
from prunevid_qwen.evaluation.engine.task_media import MediaReading, Read, read_media
from prunevid_qwen.evaluation.store import code_digest, plugin_options, reader_options
from prunevid_qwen.receipt import versions
from prunevid_qwen.video.data_uris import named

if TYPE_CHECKING:  # readers, one for each CPU, import no more than they need
    from prunevid_qwen.evaluation.engine.answering import Answerer, Answering

Row = dict[str, Any]
Same = tuple[tuple[str, str], ...]
"""Name and version of what has to be the same on every machine."""

TRIES = 3
"""Processes that may die of a task, reading it or answering it, before it is given up."""

_IN_FLIGHT = 2  # tasks of a model: while one is answered the next is on its way
_THREADS_BESIDE_GPU = 4  # Ray leaves one; cutting frames into patches is arithmetic without sums, equal under any
_LARGEST = 2**31 - 2**20  # bytes of a value in one of Arrow's binary columns


def run_on_ray(
    tasks: Iterable[Task],
    reading: MediaReading,
    answering: Answering,
    *,
    replicas: int | None = None,
    readers: int | None = None,
    verbose: bool = False,
) -> Generator[Line, None, None]:
    """Answer tasks on the Ray cluster that is joined, in the order in which they are done, a task's lines together.

    Ray tries again what was with a process or a machine that died. A task that `TRIES` processes died of becomes an
    error of its questions; those that merely waited beside it do not.

    Args:
        reading, answering: both travel to every machine. The files of plug-ins do not: each machine has them, at the
            same place.
        replicas: models; None is one for each GPU of the cluster, one where there is none.
        readers: tasks that are read at once; None is as many as CPUs are free.
        verbose: show Ray's own log.

    Raises:
        PruneVidError: what was raised on any machine, as itself.
        SetupError: a cluster that broke down, or machines on which other code is installed.
    """
    with joined(verbose=verbose) as cluster, _quiet(verbose):
        device = cluster.device(answering.loading.get("device"))
        count = cluster.replicas(replicas, device)
        if answering.loading.get("device_map") is None:
            answering = replace(answering, loading={**answering.loading, "device": device})
        # workers have working directories of their own
        plugins = tuple(str(Path(each).resolve()) if Path(each).is_file() else each for each in answering.plugins)
        answering = replace(answering, plugins=plugins)
        if Path(answering.model_path).is_dir() and not is_bundled(answering.model_path):
            answering = replace(answering, model_path=str(Path(answering.model_path).resolve()))
        left = dict(enumerate(tasks))
        if not left:
            return
        # Ray Data tries again without end what was with a process that died, and starts models anew; see `Tries`
        tries = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tries).remote()
        shared = {"tries": tries, "same": _installed(plugins), "plugins": plugins}
        rows = [{"number": number, "task": cloudpickle.dumps(task)} for number, task in left.items()]
        data = ray.data.from_items(rows, override_num_blocks=len(rows))
        data.context.enable_progress_bars = data.context.print_on_execution_start = False
        pipeline = data.map(
            _read,
            fn_kwargs={"reading": cloudpickle.dumps(reading), **shared},
            compute=ray.data.TaskPoolStrategy(size=readers),
            num_cpus=cluster.reader_cpus(),
        ).map(
            _Replica,
            fn_constructor_kwargs={"answering": cloudpickle.dumps(answering), "on_gpu": device == "cuda", **shared},
            compute=ray.data.ActorPoolStrategy(size=min(count, len(left)), max_tasks_in_flight_per_actor=_IN_FLIGHT),
            num_cpus=REPLICA_CPUS,
            num_gpus=1 if device == "cuda" else 0,
        )
        try:
            with contextlib.closing(_made(pipeline)) as made:
                for number, lines in made:
                    if left.pop(number, None) is not None:
                        yield from lines
        except ray.exceptions.RayError as error:
            raise SetupError(
                f"the Ray cluster broke down ({type(error).__name__}: {str(error).strip().splitlines()[0]}): what was "
                "answered is kept; see `ray status`, and run again to go on"
            ) from error
        if left:
            raise SetupError(f"Ray ended, but {len(left)} tasks did not come back: run again to go on with them")


def _made(pipeline: Any) -> Generator[tuple[int, list[Line]], None, None]:
    """Yield the number and the lines of each task as soon as they are there; raise what a task raised."""
    # nothing is fetched ahead: what is made is stored at once
    batches = pipeline.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")
    for batch in batches:
        for row in batch.to_pylist():
            if row["fault"] is not None:
                fault, where = cloudpickle.loads(row["fault"])
                raise fault from _Elsewhere(where)
            yield row["number"], json.loads(row["made"])


class Tries:
    """Counts how often work was begun and not ended: what a process that died cannot tell. Lives in an actor."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, what: str) -> int:
        """Return how often it was begun before without an end."""
        self._begun[what] += 1
        return self._begun[what] - 1

    def end(self, what: str) -> None:
        """Forget it: it was not what a process died of."""
        del self._begun[what]


@contextlib.contextmanager
def _try(tries: Any, what: str) -> Iterator[bool]:
    """Say whether there is a try left; what is left by an error has ended."""
    before = ray.get(tries.begin.remote(what))
    try:
        yield before < TRIES
    finally:
        tries.end.remote(what)


def _read(row: Row, reading: bytes, tries: Any, same: Same, plugins: Plugins = ()) -> Row:
    def read() -> bytes:
        media = cloudpickle.loads(row["task"]).media
        with _try(tries, f"reading {row['number']}") as may:
            found = Read((), _killed("read", media), 0.0)
            if may:
                found = read_media(_reading_of(reading, same, plugins), media)
        dumped: bytes = cloudpickle.dumps(found)
        if len(dumped) > _LARGEST:
            said = f"its frames are {len(dumped) / 2**30:.1f} GiB, and Ray carries 2: take fewer or smaller ones"
            dumped = cloudpickle.dumps(Read((), said, found.seconds))
        return dumped

    return {**row, **_caught("read", read)}


@functools.cache
def _reading_of(pickled: bytes, same: Same, plugins: Plugins) -> MediaReading:
    import torch

    torch.set_num_threads(1)  # readers are as many as CPUs
    return _arrived(pickled, same, plugins)  # type: ignore[no-any-return]


def _arrived(pickled: bytes, same: Same, plugins: Plugins) -> Any:
    _check_same(same, plugins)
    load_once(plugins)
    return cloudpickle.loads(pickled)


class _Replica:
    """A model that answers tasks; lives in a process of its own."""

    def __init__(self, answering: bytes, on_gpu: bool, tries: Any, same: Same, plugins: Plugins = ()) -> None:
        import torch

        if on_gpu:
            torch.set_num_threads(_THREADS_BESIDE_GPU)
        self._tries = tries
        self._loaded = _caught("answerer", lambda: _arrived(answering, same, plugins).load())

    def __call__(self, row: Row) -> Row:
        def answer() -> str:
            answerer: Answerer = self._loaded["answerer"]
            task, read = (cloudpickle.loads(row[name]) for name in ("task", "read"))
            with _try(self._tries, f"answering {row['number']}") as may:
                if not may:
                    read = Read((), _killed("asked about", task.media), read.seconds)
                return json.dumps(list(answerer.answer(task, read)))

        before = next((each["fault"] for each in (self._loaded, row) if each["fault"] is not None), None)
        made = _caught("made", answer) if before is None else {"made": None, "fault": before}
        return {"number": row["number"], **made}


def _killed(doing: str, media: Sequence[Media]) -> str:
    paths = ", ".join(named(each.path) for each in media) or "no media"
    return f"{TRIES} processes died while {paths} was {doing}: out of memory, or a fault of a decoder or driver"


class _Elsewhere(Exception):
    """Where an error came from: the traceback of another process, as text."""


def _caught(name: str, work: Callable[[], Any]) -> Row:
    """Return what work returns under a name, or what it raises under "fault", in a shape that travels."""
    try:
        return {name: work(), "fault": None}
    except Exception as error:
        where = f"on {platform.node()}:\n{traceback.format_exc()}"
        plain = error if isinstance(error, PruneVidError) else RuntimeError(f"{type(error).__name__}: {error}")
        return {name: None, "fault": cloudpickle.dumps((plain.with_traceback(None), where))}


def _check_same(same: Same, plugins: Plugins = ()) -> None:
    for (name, wanted), (_, here) in zip(same, _installed(plugins), strict=True):
        if here != wanted:
            what = "other code of prunevid_qwen" if name == "code" else f"{name} {here}, not {wanted}"
            raise SetupError(
                f"{platform.node()} has {what}: answers of both do not belong into one table; install the same on "
                "every machine of the cluster"
            )


def _installed(plugins: Plugins = ()) -> Same:
    own = (*versions().items(), *reader_options("pyav").items(), ("code", code_digest()))
    return (*own, *plugin_options(plugins).items())


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
