"""Times, memory and FLOPs of pruning over images: a line an image and row, stored as soon as it is measured.

Every row answers every image in turns, so that what changes with time changes for all. An image is answered twice by
each row before it counts, so that no row pays for new kernels or a new shape; three rounds after that give medians.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from prunevid_qwen.evaluation.datasets.record import Record
from prunevid_qwen.evaluation.engine.storing import Progress, answered, answers_of, run_folder
from prunevid_qwen.evaluation.engine.task import Line
from prunevid_qwen.evaluation.engine.task_media import ByProtocol, ReadMedia, media_reader, read_media
from prunevid_qwen.evaluation.protocol.protocol import EvalProtocol, under
from prunevid_qwen.evaluation.published.reproduce import Reproduction
from prunevid_qwen.evaluation.speed.contest import Competitor, Contest
from prunevid_qwen.evaluation.speed.model_shapes import MERGE, PATCH_FRAMES, check_counted
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize
from prunevid_qwen.evaluation.store import Lines, config_options, digest_of, model_options, run_hash
from prunevid_qwen.evaluation.tasks.runs import BenchmarkQuestion, spread
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.inputs.qwen.pixels import fitted_pixels
from prunevid_qwen.loading import choose_device
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.tokens.device import input_device

ROUNDS = 3
_OUT_OF_MEMORY = "out of GPU memory: smaller max_pixels need less"


def measure(
    asked: Reproduction, folder: Path, new_tokens: int, restart: bool = False, tell: Progress = lambda *_: None,
    command: str = "",
) -> None:  # fmt: skip
    """Measure the images of a timed setting that the folder does not hold yet.

    Each is answered with ``new_tokens`` tokens, at least 2. The rest is as in `answer_benchmark`.

    Raises:
        ConfigError: the data set is not there, or the folder holds another run.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    [(each, data)] = asked.read()
    protocol, ours = asked.protocol(each), dict(asked.configs(asked.depth())[0])
    rows = [
        Competitor(row.name, None if row.ours is None else under(protocol, row.name, ours[row.name]))
        for row in asked.setting.rows
    ]
    device = choose_device(asked.loading.get("device"))
    media_reader(asked.model_path, asked.loading)  # a model that cannot be measured is refused before a file is touched
    options = {
        "dataset": data.name, "images": f"{len(data.records)}, {digest_of([record.id for record in data.records])}",
        "new_tokens": new_tokens, "rounds": ROUNDS, **protocol.to_dict(),
        **model_options(asked.model_path, asked.loading, device),
    }  # fmt: skip
    stored = {row.name: {} if row.config is None else config_options(row.config) for row in rows}
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
    records = spread(data.records, asked.limit)
    left = [record for record in records if any((row.name, record.id) not in done for row in rows)]
    tell(f"{each.data.title}: timing", len(records) - len(left), len(records))
    if not left:
        return
    timer = _Timer(asked, rows, protocol, new_tokens)
    with Lines(answers_of(folder)) as part:
        for number, record in enumerate(left, 1 + len(records) - len(left)):
            for line in timer.lines(record):
                part.add({**line, "run": hashes[line["config"]]})
            tell(f"{each.data.title}: timing", number, len(records))


class _Timer:
    """A loaded model that measures images under every row."""

    def __init__(self, asked: Reproduction, rows: list[Competitor], protocol: EvalProtocol, new_tokens: int) -> None:
        given = {name: value for name, value in asked.loading.items() if value is not None}
        self.config = next(row.config for row in rows if row.config is not None)
        self.model = PruneVidQwen25VL.from_pretrained(asked.model_path, config=self.config, **given)
        self.rows, self.protocol, self.new_tokens = rows, protocol, new_tokens
        check_counted(self.model.model.config)
        media = self.model.preprocessor.media
        self.reading = ByProtocol(protocol, media.video, media.image)

    def lines(self, record: Record) -> Iterator[Line]:
        base, read = {"id": record.id, "image": record.media[0].path}, read_media(self.reading, record.media)
        error = read.error
        if error is None:
            try:
                yield from ({**base, **line} for line in self._measured(record, read.media))
                return
            except torch.OutOfMemoryError:  # one image may be too large where all others fit
                torch.cuda.empty_cache()
                error = _OUT_OF_MEMORY
        yield from ({**base, "config": row.name, "error": error} for row in self.rows)

    def _measured(self, record: Record, media: tuple[ReadMedia, ...]) -> list[Line]:
        [shown] = media
        pixels, grid = fitted_pixels(shown.frames, self.reading.image)
        item = {"type": "image", "image": Medium("image", pixels, grid, 1.0, shown.facts)}
        question = replace(record, options=(), answer=None)  # free-form
        preprocessor, stock = self.model.preprocessor, self.model.model
        sample = preprocessor.sample(BenchmarkQuestion(question, self.protocol).messages([item], media), self.config)
        inputs = {name: value.to(input_device(stock)) for name, value in preprocessor.batch([sample]).items()}
        rows, columns = (int(side) // MERGE for side in grid[0, 1:])
        text = inputs["input_ids"].shape[1] - rows * columns
        size = PromptSize(PATCH_FRAMES, rows, columns, text_tokens=text)  # an image is one temporal position
        contest = Contest(stock, size, inputs, self.rows, self.new_tokens)
        found, rounds = contest.prepare(), list(contest.rounds(ROUNDS))
        return [_line(name, about, [each[name] for each in rounds if name in each]) for name, about in found.items()]


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
