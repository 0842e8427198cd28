"""Times, memory and FLOPs of pruning over images: a line an image and row, stored as soon as it is measured.

Every row answers every image in turns, so that what changes with time changes for all. An image is answered once by
each row before it counts, so that no row pays for a shape that is new; three rounds after that give medians.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.datasets.record import Record
from prunevid_qwen.evaluation.engine.reading import ByProtocol, media_reader, read_media
from prunevid_qwen.evaluation.engine.storing import Progress, answered, answers_of, run_folder
from prunevid_qwen.evaluation.protocol.configs import under
from prunevid_qwen.evaluation.protocol.protocol import Protocol
from prunevid_qwen.evaluation.published.reproduce import Reproduction
from prunevid_qwen.evaluation.speed.contest import Competitor, Contest
from prunevid_qwen.evaluation.speed.model_shapes import MERGE, PATCH_FRAMES, check_counted
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize
from prunevid_qwen.evaluation.speed.timed_run import timed_tokens
from prunevid_qwen.evaluation.store import Lines, config_options, digest_of, model_options, run_hash
from prunevid_qwen.evaluation.tasks.benchmark import BenchmarkQuestion, spread
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.inputs.qwen.pixels import fitted_pixels
from prunevid_qwen.loading import choose_device
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.tokens.device import input_device

WARM_UP, ROUNDS = 3, 3
_OUT_OF_MEMORY = "out of GPU memory: smaller max_pixels need less"
Competitors = tuple[tuple[str, PruneVidConfig | None], ...]
Line = dict[str, Any]


def measure(
    asked: Reproduction, folder: Path, new_tokens: int, images: int, restart: bool = False,
    tell: Progress = lambda *_: None, command: str = "",
) -> None:  # fmt: skip
    """Measure what the folder does not hold yet.

    Args:
        asked: a timed setting.
        folder: of the results.
        new_tokens: of every answer, at least 2.
        images: how many, equally spaced.
        restart, tell, command: as in `answer_run`.

    Raises:
        ConfigError: the data set is not there, or the folder holds another run.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    [(each, data)] = asked.read()
    protocol, ours = asked.protocol(each), dict(asked.configs(asked.depth())[0])
    rows = tuple(  # None is the stock model
        (row.name, None if row.ours is None else under(protocol, row.name, ours[row.name]))
        for row in asked.setting.rows
    )
    device = choose_device(asked.loading.get("device"))
    media_reader(asked.model_path, asked.loading)  # a model that cannot be measured is refused before a file is touched
    options = {
        "dataset": data.name, "images": f"{len(data.records)}, {digest_of([record.id for record in data.records])}",
        "new_tokens": new_tokens, "rounds": ROUNDS, "warm_up": WARM_UP, **protocol.to_dict(),
        **model_options(asked.model_path, asked.loading, device),
    }  # fmt: skip
    stored = {name: {} if config is None else config_options(config) for name, config in rows}
    kind = torch.device(device)
    about = {
        "what": "times of pruning on images",
        "device name": torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type,
        "protocol": protocol.to_dict(),
        "command": command,
    }
    run_folder(folder).begin(options, about, restart, configs=stored)
    hashes = {name: run_hash(options, config) for name, config in stored.items()}
    done = answered(folder, hashes)
    records = spread(data.records, images)
    left = [record for record in records if any((name, record.id) not in done for name, _ in rows)]
    tell(f"{each.data.title}: timing", len(records) - len(left), len(records))
    if not left:
        return
    timer = _Timer(asked, rows, protocol, new_tokens)
    timer.warm_up(data.records)
    with Lines(answers_of(folder)) as part:
        for number, record in enumerate(left, 1 + len(records) - len(left)):
            for line in timer.lines(record):
                part.add({**line, "run": hashes[line["config"]]})
            tell(f"{each.data.title}: timing", number, len(records))


class _Timer:
    """A loaded model that measures images."""

    def __init__(self, asked: Reproduction, rows: Competitors, protocol: Protocol, new_tokens: int) -> None:
        given = {name: value for name, value in asked.loading.items() if value is not None}
        self.first = next(config for _, config in rows if config is not None)
        self.model = PruneVidQwen25VL.from_pretrained(asked.model_path, config=self.first, **given)
        self.stock, self.device = self.model.model, input_device(self.model.model)
        check_counted(self.stock.config)
        self.rows, self.new_tokens = rows, new_tokens
        media = self.model.preprocessor.media
        self.reading = ByProtocol(
            protocol, media.video, media.image, self.first.video_backend, self.first.video_time_limit
        )  # fmt: skip

    def warm_up(self, records: Any) -> None:
        """Answer the first image that can be read, unmeasured: the first kernels of a process are slow."""
        for record in records:
            inputs, error, _ = self._inputs(record)
            if error is None:
                for _ in range(WARM_UP):
                    for _, config in self.rows:
                        timed_tokens(self.stock, inputs, config, 2)
                return

    def lines(self, record: Record) -> Iterator[Line]:
        """Measure one image under every row."""
        inputs, error, grid = self._inputs(record)
        base = {"id": record.id, "image": record.media[0].path}
        if error is None:
            try:
                yield from ({**base, **line} for line in self._measured(inputs, grid))
                return
            except torch.OutOfMemoryError:  # one image may be too large where all others fit
                torch.cuda.empty_cache()
                error = _OUT_OF_MEMORY
        yield from ({**base, "config": name, "error": error} for name, _ in self.rows)

    def _measured(self, inputs: dict[str, Any], grid: tuple[int, int]) -> list[Line]:
        text = inputs["input_ids"].shape[1] - grid[0] * grid[1]
        size = PromptSize(PATCH_FRAMES, *grid, text_tokens=text)  # an image is one temporal position
        entered = [Competitor(name, config) for name, config in self.rows]
        contest = Contest(self.stock, size, inputs, entered, self.new_tokens)
        found, rounds = contest.prepare(), list(contest.rounds(ROUNDS))
        return [_line(name, about, [each[name] for each in rounds if name in each]) for name, about in found.items()]

    def _inputs(self, record: Record) -> tuple[dict[str, Any], str | None, tuple[int, int]]:
        question = Record(record.id, record.media, record.question, (), None, record.groups)  # free-form: no options
        read = read_media(self.reading, record.media)
        if read.error is not None:
            return {}, read.error, (0, 0)
        [shown] = read.media
        pixels, grid = fitted_pixels(shown.frames, self.reading.image)
        item = {"type": "image", "image": Medium("image", pixels, grid, 1.0, shown.facts)}
        messages = BenchmarkQuestion(question, self.reading.protocol).messages([item], read.media)
        preprocessor = self.model.preprocessor
        batch = preprocessor.batch([preprocessor.sample(messages, self.first)])
        rows, columns = (int(side) // MERGE for side in grid[0, 1:])
        return {name: value.to(self.device) for name, value in batch.items()}, None, (rows, columns)


def _line(name: str, about: dict[str, Any], rounds: list[dict[str, Any]]) -> Line:
    if "error" in about:
        return {"config": name, "error": _OUT_OF_MEMORY}
    facts, flops = about["facts"], about["facts"]["flops"]
    tokens, lengths = facts["tokens"], facts["cache_lengths"]
    seconds = {part: median(one[part] for one in rounds) for part in ("first_token", "decode_per_token", "end_to_end")}
    seconds |= {part: median(one["parts"][part] for one in rounds) for part in ("vision", "decoder")}
    return {
        "config": name,
        "error": None,
        "seconds": seconds,
        "tokens": {
            "visual": tokens["visual"], "text": tokens["text"], "kept": int(tokens["after_stage2"]),
            "layer": facts["layer"],
        },
        "cache_length": sum(lengths) / len(lengths),
        "flops": {
            "decoder": flops["decoder"]["total"] + flops["lm_head"], "vision": flops["vision"],
            "decode_step": flops["decode_step"],
        },
        "memory": about["memory"],
    }  # fmt: skip
