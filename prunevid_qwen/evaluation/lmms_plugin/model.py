"""The class that lmms-eval makes a model of; the only file here that imports lmms-eval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import get_int_from_env
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger  # type: ignore[import-not-found]  # lmms-eval's
from tqdm import tqdm  # type: ignore[import-untyped]

from prunevid_qwen.errors import PruningNotApplied, SetupError, UnsupportedError, abridged
from prunevid_qwen.evaluation.engine.answering import Answering, Encoded
from prunevid_qwen.evaluation.engine.local import run_here
from prunevid_qwen.evaluation.engine.task import Line, Task, tasks_of
from prunevid_qwen.evaluation.engine.task_media import Read, media_wanted
from prunevid_qwen.evaluation.lmms_plugin import requests as handed
from prunevid_qwen.evaluation.store import Lines
from prunevid_qwen.tokens.device import input_device

_CONFIG = "lmms_eval"
_ONLY_ANSWERS = "prunevid_qwen {}: choose a task whose output_type is generate_until"


class PruneVidQwen(lmms):
    """A model with pruned visual tokens: ``lmms-eval --model prunevid_qwen --model_args config=paper,...``.

    Args:
        batch_size, max_batch_size: any number: each answer is one prompt, never padded beside others.
        given: see `requests.KINDS`.

    Raises:
        ConfigError: an unknown argument, or a bad value.
        SetupError: several processes were started that do not know of each other.
    """

    is_simple = False

    def __init__(self, batch_size: int | str = 1, max_batch_size: int | str | None = None, **given: Any) -> None:
        super().__init__()
        self.arguments = handed.read_arguments(given)
        self.accelerator = Accelerator()
        processes = self.accelerator.num_processes
        # what torchrun says; lmms-eval goes by it, and would wait for ever for processes that accelerate does not see
        launched = get_int_from_env(("WORLD_SIZE",), 1)
        if launched != processes:
            raise SetupError(
                f"{launched} processes were started, accelerate sees {processes}: without GPUs, set "
                "ACCELERATE_USE_CPU=true before torchrun"
            )
        self._rank, self._world_size = self.accelerator.process_index, processes
        loading = handed.placed(self.arguments.loading, processes, str(self.accelerator.device))
        config = self.arguments.config
        self._wanted = wanted = media_wanted(self.arguments.pretrained, loading)
        wanted.check_asked(given)
        self._answerer = Answering(((_CONFIG, config),), self.arguments.pretrained, loading).load()
        self._device = input_device(self._answerer.model.model)
        self._reading = handed.ByRequest(
            self.arguments.protocol, wanted.video, wanted.image, config.video_backend, config.video_time_limit
        )
        if wanted.note and self._rank == 0:
            logger.warning(wanted.note)
        self._open = ExitStack()
        self._records: Lines | None = None
        if self.arguments.records is not None:
            folder = Path(self.arguments.records)
            folder.mkdir(parents=True, exist_ok=True)
            self._records = self._open.enter_context(Lines(folder / f"rank_{self._rank}.jsonl"))
        self.errors: list[str] = []
        if "pretrained" not in given and self._rank == 0:
            logger.warning(
                "no pretrained= is given, so the bundled model answers, which knows moving shapes and nothing else: "
                "pass pretrained=Qwen/Qwen2.5-VL-7B-Instruct or a folder"
            )
        if str(batch_size) != "1" and self._rank == 0:
            logger.info(f"batch_size={batch_size}: prompts are answered one by one all the same, so answers are equal")

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    def generate_until(self, requests: list[Instance]) -> Iterator[GenerationResult]:
        """Return the answers lazily, in order: lmms-eval's response cache stores each as it comes.

        Raises:
            ConfigError: a task's generation argument that cannot be honoured; before any answer.
            PruningNotApplied: see `Answerer.answer`.
            UnsupportedError: the model is not shown such a medium.
        """
        asked = [  # None is padding: other ranks have one more request, and nobody reads its answer
            None
            if (request.metadata or {}).get("__padding_only__")
            else (request, handed.read_generation(request.args[2], self.arguments.max_new_tokens))
            for request in requests
        ]
        return self._generate(asked)

    def _generate(self, asked: Sequence[tuple[Instance, handed.Generation] | None]) -> Iterator[GenerationResult]:
        done: list[Line] = []
        own = [each for each in asked if each is not None]
        tasks = tasks_of((self._question(*each) for each in own), [_CONFIG], handed.TOGETHER)
        bar = tqdm(total=len(own), disable=self._rank != 0, desc="prunevid_qwen")
        try:
            with bar, closing(run_here(tasks, self._reading, self._lines, self.arguments.workers)) as lines:
                for each in asked:
                    if each is None:
                        yield GenerationResult("")
                        continue
                    done.append(next(lines))
                    if self._records is not None:
                        self._records.add(done[-1])
                    if len(done) == len(own):  # lmms-eval need not come back after the last answer
                        lines.close()
                        self._tell(done)
                    bar.update()
                    yield _result(done[-1], each[1])
        except (PruningNotApplied, UnsupportedError) as error:
            if self._world_size == 1:
                raise
            logger.error(str(error))
            raise SystemExit(error.exit_code) from error  # an Exception would leave the other ranks waiting

    def _lines(self, task: Task, read: Read) -> Iterator[Line]:
        self._wanted.check_shown(task.media)  # no such request would be answered: the run ends
        encoded = Encoded(self._answerer, read.media)
        for question, _ in task.questions:
            fault: Exception | None = None
            try:
                line = self._answerer.line(question, _CONFIG, read, encoded)
            except PruningNotApplied:
                raise
            except Exception as error:
                fault = error
                line = {**question.about(), "error": f"{type(error).__name__}: {error}"}
            if line["error"] is not None:
                self.errors.append(f"{question.id}: {line['error']}")
                logger.opt(exception=fault).error(abridged(f"no answer to {self.errors[-1]}"))
            yield line

    def _question(self, request: Instance, generation: handed.Generation) -> handed.ChatQuestion:
        _, doc_to_messages, _, doc_id, task, split = request.args
        name = f"{task}/{doc_id}"
        try:
            messages = doc_to_messages(self.task_dict[task][split][doc_id])
            system, prefill = self.arguments.system, self.arguments.prefill
            return handed.chat_question(name, generation.arguments, messages, system, prefill)
        except (Exception, SystemExit) as error:  # some tasks end the process where a video is missing
            return handed.ChatQuestion(name, generation.arguments, error=f"{type(error).__name__}: {error}")

    def _tell(self, done: Sequence[Line]) -> None:
        """Log this rank's figures; lmms-eval puts those of rank 0 into its results under "throughput"."""
        answered = [line for line in done if line["error"] is None]
        seconds = sum(line["seconds"]["total"] for line in answered)
        tokens = sum(line["tokens"]["generated"] for line in answered)
        more: dict[str, Any] = {"total_requests": len(done), "errors": len(done) - len(answered)}
        kept = [line["kept_ratio"] for line in answered if line["kept_ratio"] is not None]
        if kept:
            more["kept_ratio"] = fmean(kept)
        if answered:
            more["visual_tokens"] = fmean(line["tokens"]["visual"] for line in answered)
            parts = ("merge", "select", "prefill")  # the pass through the prompt, with what prunes it
            more["prefill_seconds"] = fmean(sum(line["seconds"][part] for part in parts) for line in answered)
        log_metrics(seconds, tokens, tokens / seconds if seconds else 0.0, more)
        if more["errors"]:
            logger.error(
                f"{more['errors']} of {len(done)} requests have no answer and count as empty texts, which some tasks "
                f"leave out of their scores; the first: {abridged(self.errors[0])}"
            )

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refuse: pruning is defined for prompts with an answer to come."""
        raise NotImplementedError(_ONLY_ANSWERS.format("gives no log-likelihoods"))

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Refuse: see the sentence."""
        raise NotImplementedError(_ONLY_ANSWERS.format("answers one round a request"))

    def clean(self) -> None:
        """Let go of the model: lmms-eval may put a judge on the same GPU."""
        self._open.close()
        del self._answerer
        super().clean()


def _result(line: Line, generation: handed.Generation) -> GenerationResult:
    if line["error"] is not None:
        return GenerationResult("")
    tokens = line["tokens"]
    counts = TokenCounts(input_tokens=tokens["prompt"], output_tokens=tokens["generated"])
    return GenerationResult(generation.cut(line["raw"]), counts)
