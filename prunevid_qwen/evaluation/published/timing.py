"""Times, memory and FLOPs of pruning over images: a line an image and row, stored as soon as it is measured.

Every row answers every image in turns, so that what changes with time changes for all. An image is answered twice by
each row before it counts, so that no row pays for new kernels or a new shape; three rounds after that give medians.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.datasets.record import Record
from prunevid_qwen.evaluation.engine.storing import Progress, answered, answers_of, run_folder
from prunevid_qwen.evaluation.engine.task import Line
from prunevid_qwen.evaluation.engine.task_media import ByProtocol, ReadMedia, media_reader, read_media
from prunevid_qwen.evaluation.published.reproduce import Reproduction
from prunevid_qwen.evaluation.speed.contest import Competitor, Contest
from prunevid_qwen.evaluation.speed.prompt_forms import form_of
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize
from prunevid_qwen.evaluation.speed.vision_flops import check_counted
from prunevid_qwen.evaluation.store import Lines, config_options, run_hash
from prunevid_qwen.evaluation.tasks.runs import BenchmarkQuestion, spread
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.inputs.qwen.pixels import fitted_pixels
from prunevid_qwen.loading import choose_device
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.tokens.device import input_device

ROUNDS = 3
_OUT_OF_MEMORY = "out of GPU memory: smaller max_pixels need less"


def measure(
    asked: Reproduction,
    folder: Path,
    new_tokens: int,
    restart: bool = False,
    tell: Progress = lambda *_: None,
    command: str = "",
) -> None:
    """Measure the images of a timed setting that the folder does not hold yet, answered with ``new_tokens`` each.

    The rest is as in `answer_benchmark`.

    Raises:
        ConfigError: the data set is not there, or the folder holds another run.
        PruningNotApplied: pruning was asked for and did not happen.
    """
    media_reader(asked.model_path, asked.loading)  # only patches that this package makes are counted as FLOPs
    [(each, data)] = asked.read()
    run = asked.run(each, asked.configs(asked.depth())[0])
    ours, reading = dict(run.configs), run.reading()
    rows = [Competitor(row.name, None if row.ours is None else ours[row.name]) for row in asked.setting.rows]
    options = {**run.options(data), "new_tokens": new_tokens, "rounds": ROUNDS}
    stored = {row.name: {} if row.config is None else config_options(row.config) for row in rows}
    kind = torch.device(choose_device(asked.loading.get("device")))
    about = {
        "what": "times of pruning on images",
        "device name": torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type,
        "protocol": run.protocol.to_dict(),
        "command": command,
    }
    run_folder(folder).begin(options, about, restart, configs=stored)
    hashes = {name: run_hash(options, config) for name, config in stored.items()}
    done, records = answered(folder, hashes), spread(data.records, asked.limit)
    left = [record for record in records if any((row.name, record.id) not in done for row in rows)]
    told = f"{each.data.title}: timing"
    tell(told, len(records) - len(left), len(records))
    if not left:
        return
    config = next(row.config for row in rows if row.config is not None)
    given = {name: value for name, value in asked.loading.items() if value is not None}
    model = PruneVidQwen25VL.from_pretrained(asked.model_path, config=config, **given)
    check_counted(model.model.config)
    with Lines(answers_of(folder)) as part:
        for number, record in enumerate(left, 1 + len(records) - len(left)):
            read = read_media(reading, record.media)
            lines, error = list[Line](), read.error
            if error is None:
                try:
                    size, inputs = _prompt(model, config, record, read.media, reading)
                    contest = Contest(model.model, size, inputs, rows, new_tokens)
                    found, rounds = contest.prepare(), list(contest.rounds(ROUNDS))
                    lines = [_line(name, found[name], [each.get(name) for each in rounds]) for name in found]
                except torch.OutOfMemoryError:  # one image may be too large where all others fit
                    torch.cuda.empty_cache()
                    error = _OUT_OF_MEMORY
            for line in lines or [{"config": row.name, "error": error} for row in rows]:
                image = {"id": record.id, "image": record.media[0].path}
                part.add({**image, **line, "run": hashes[line["config"]]})
            tell(told, number, len(records))


def _prompt(
    model: Any, config: PruneVidConfig, record: Record, media: tuple[ReadMedia, ...], reading: ByProtocol
) -> tuple[PromptSize, dict[str, Any]]:
    """Return the size of an image's prompt and its tensors; the question is asked without its options."""
    [shown] = media
    pixels, grid = fitted_pixels(shown.frames, model.preprocessor.media.image)
    item = {"type": "image", "image": Medium("image", pixels, grid, 1.0, shown.facts)}
    question = BenchmarkQuestion(replace(record, options=(), answer=None), reading.protocol)
    sample = model.preprocessor.sample(question.messages([item], media), config)
    on = input_device(model.model)
    inputs = {name: value.to(on) for name, value in model.preprocessor.batch([sample]).items()}
    form = replace(form_of(model.model.config), times=0)  # before an image stands no time
    rows, columns = (int(side) // form.merge for side in grid[0, 1:])
    text = inputs["input_ids"].shape[1] - rows * columns
    return PromptSize(form.frames, rows, columns, text, form=form), inputs  # an image is one temporal position


def _line(name: str, about: dict[str, Any], rounds: list[Any]) -> Line:
    if "error" in about:
        return {"config": name, "error": _OUT_OF_MEMORY}
    facts, flops = about["facts"], about["facts"]["flops"]
    tokens, lengths = facts["tokens"], facts["cache_lengths"]
    seconds = {part: median(one[part] for one in rounds) for part in ("first_token", "decode_per_token", "end_to_end")}
    seconds |= {part: median(one["parts"][part] for one in rounds) for part in ("vision", "decoder")}
    kept = {"visual": tokens["visual"], "text": tokens["text"], "kept": int(tokens["after_stage2"])}
    decoder = flops["decoder"]["total"] + flops["lm_head"]
    return {
        "config": name,
        "error": None,
        "seconds": seconds,
        "tokens": {**kept, "layer": facts["layer"]},
        "cache_length": sum(lengths) / len(lengths),
        "flops": {"decoder": decoder, "vision": flops["vision"], "decode_step": flops["decode_step"]},
        "memory": about["memory"],
    }
