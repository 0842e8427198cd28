"""``prunevid tune``: values of options that are measured on a model and its videos, without labels."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.cli.groups import ModelOptions
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.output import SIGNALLED, Bars, Done, Reporting, check_config_file, write
from prunevid_qwen.cli.pruning_options import CONFIG_KIND, PRESETS_HELP, Changes, PruningOptions
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.config.media_reading import STOCK_ENCODER
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import MediaError, abridged, excerpt
from prunevid_qwen.processes.interruption import signal_of

_TRIED = "What is tried"
_OPTIONS = ("reuse_threshold", "early_block", "early_tau")


def vision(
    *,
    videos: list[str] = word(..., "VIDEO...", "Videos like those that will be asked about; 20 are plenty."),
    config: str = opt("fast", f"{PRESETS_HELP.rpartition(' Default')[0]} Default: fast.", CONFIG_KIND),
    out: Path = opt(Path("fast.json"), "The config to write. Default: fast.json.", "FILE.json"),
    force: bool = opt(False, "Write over a file that is there."),
    agreement: float = opt(0.99, "Share of the copies that stage 1 has to merge. Default: 0.99.", "SHARE", _TRIED),
    thresholds: tuple[float, ...] = opt((), "Of reuse_threshold. Default: 2,4,8,16.", "LEVELS", _TRIED),
    early_blocks: tuple[int, ...] = opt((), "Of early_block. Default: after 1/8 and 1/4.", "BLOCKS", _TRIED),
    early_taus: tuple[float, ...] = opt((), "Of early_tau. Default: 0.98,0.95,0.9,0.8.", "COSINES", _TRIED),
    dry_run: bool = opt(False, "Say what would be measured, and load no model."),
    model: ModelOptions,
    output: Reporting,
    pruning: PruningOptions,
) -> Done:
    """Find how much of a video the vision encoder may copy instead of encode, on your model and your videos.

    Each video is encoded once, in full. No labels are needed: a copy is harmless where stage 1 would have merged it.
    The hardest candidate at which it would have merged 99 % goes into a config file.

    Examples:
      prunevid tune vision a.mp4 b.mp4 -m Qwen/Qwen2.5-VL-7B-Instruct
      prunevid tune vision a.mp4 --max_frames 64 --out mine.json
      prunevid tune vision a.mp4 b.mp4 --dry_run
      prunevid tune vision a.mp4 --agreement 0.995 --thresholds 4,8 --json
      prunevid ask ... --config fast.json

    Sample the videos as they will be asked about: fewer frames a second stand
    still less often. Ctrl-C reports the videos that are done.
    """
    base = build_config(config, pruning.given)
    check_config_file(out, force)
    from prunevid_qwen.evaluation.speed.vision_candidates import Candidates, merge_tau_of

    given = {"thresholds": thresholds, "blocks": early_blocks, "taus": early_taus, "agreement": agreement}
    tried = Candidates(**{name: value for name, value in given.items() if value != ()})  # type: ignore[arg-type]
    tau = merge_tau_of(base)
    found, missing = files(videos)
    output.note_missing([excerpt(each) for each in missing], "videos are missing", ": the others are measured")
    told: dict[str, Any] = {"model": model.model_path, "config": config, "tau": tau, "agreement": tried.agreement}
    if dry_run:
        told |= {"videos": found, "failed": missing, "out": str(out), "tried": vars(tried)}
        said = f"{len(found)} videos would be encoded once, and {out} written; leave out --dry_run to do it"
        return Done(told, said, MediaError.exit_code if missing else 0)
    measured = _measured(model, base, found, tried, output)
    failed = {**missing, **measured.failed}
    stopped = measured.stopped
    told |= {**measured.figures, "failed": failed, "interrupted": stopped is not None, "out": None}
    lines = [*report_lines(told), *(f"{name}: not measured ({why})" for name, why in failed.items())]
    if stopped is not None:
        lines.append(f"interrupted: {len(measured.videos)} of {len(found)} videos are done, and no config was written")
        lines += [f"write it all the same: {_by_hand(config, pruning, told['chosen'], out)}"]
        return Done(told, "\n".join(lines), SIGNALLED + signal_of(stopped))
    if measured.videos:
        from prunevid_qwen.evaluation.speed.vision_tuning import with_candidate
        from prunevid_qwen.vision.agreement import Candidate

        chosen = told["chosen"]
        candidate = Candidate(chosen["reuse_threshold"], chosen["early_block"], chosen["early_tau"])
        write(out, with_candidate(base, candidate).to_json())
        told["out"] = str(out)
        lines.append(f"wrote {out}; use it: prunevid ask ... --config {out}")
    return Done(told, "\n".join(lines), MediaError.exit_code if failed else 0)


@dataclass
class _Measured:
    """The videos that were measured, why others were not, and what ended the run before its end."""

    videos: list[Any] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: KeyboardInterrupt | None = None
    figures: dict[str, Any] = field(default_factory=dict)


def _measured(model: ModelOptions, base: PruneVidConfig, sources: Sequence[str], tried: Any, output: Reporting) -> Any:
    """Measure video by video; an interruption leaves those that are done, and goes on where none is."""
    from prunevid_qwen import PrunedVLM
    from prunevid_qwen.bundled import is_bundled, source_of
    from prunevid_qwen.evaluation.speed.vision_tuning import count_video, figures, tower_form_of
    from prunevid_qwen.inputs.frontends import check_own_reading
    from prunevid_qwen.loading import HUB_ARGUMENTS

    loading = {name: value for name, value in model.loading.items() if value is not None}
    hub = {name: loading[name] for name in HUB_ARGUMENTS if name in loading}
    check_own_reading(source_of(model.model_path), hub)
    output.calm_libraries()
    if is_bundled(model.model_path):
        output.note("note: the bundled toy encodes, and its figures are no other model's: pass -m for a real model")
    loaded = PrunedVLM.from_pretrained(model.model_path, config=base.replace(**STOCK_ENCODER), **loading)
    depth = len(tower_form_of(loaded).blocks)
    tried.blocks_of(depth)  # complains now, not after the first video
    found = _Measured()
    try:
        with Bars(output.quiet) as bars:
            for number, source in enumerate(sources):

                def tell(done: int, frames: int, number: int = number, name: str = Path(source).name) -> None:
                    bars.tell("videos", number, len(sources), figures=f"{name}, {done}/{frames} frames")

                tell(0, 0)
                try:
                    found.videos.append(count_video(loaded, base, source, tried, tell))
                except MediaError as error:
                    found.failed[source] = abridged(str(error))
            bars.tell("videos", len(sources), len(sources), figures="")
    except KeyboardInterrupt as interruption:
        if not found.videos:
            raise
        found.stopped = interruption
    found.figures = figures(found.videos, tried, depth)
    return found


def files(videos: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the videos that are there, each once, and why others are not.

    Raises:
        MediaError: none is there.
    """
    from prunevid_qwen.video.paths import local_file, local_path

    found, missing = list[str](), dict[str, str]()
    for each in dict.fromkeys(videos):
        try:
            if not Path(local_path(each)).is_dir():  # a folder of frames
                local_file(each, "video")
            found.append(each)
        except MediaError as error:
            missing[each] = str(error)
    if not found:
        raise MediaError("; ".join(missing.values()))
    return found, missing


def report_lines(told: Mapping[str, Any]) -> list[str]:
    """Return what was measured as lines for people; none where no video was."""
    from prunevid_qwen.evaluation.report.page import Table

    videos, chosen = told["videos"], told["chosen"]
    if not videos:
        return []

    def shares(row: Mapping[str, Any]) -> list[str]:
        agreed = ["-" if row[name] is None else percent(row[name], 1) for name in ("agreement", "least_agreement")]
        return [percent(row["share"], 1), percent(row["saved"], 1), *agreed]

    head = ("left out", "work saved", "agreement", "worst video")
    still = Table(
        ("reuse_threshold", *head), [(f"{row['reuse_threshold']:g}", *shares(row)) for row in told["reuse_threshold"]]
    )
    early = [row for row in told["early"] if row["reuse_threshold"] == chosen["reuse_threshold"]]
    states = Table(
        ("early_block", "early_tau", *head),
        [(str(row["early_block"]), f"{row['early_tau']:g}", *shares(row)) for row in early],
    )
    positions, units = (sum(each[name] for each in videos) for name in ("positions", "units"))
    behind = "alone" if chosen["reuse_threshold"] is None else f"behind reuse_threshold {chosen['reuse_threshold']:g}"
    seen = f"{len(videos)} videos, {positions:,} temporal positions, {units:,} units"
    lines = [
        f"{seen}; stage 1 merges above {told['tau']:g}",
        "",
        still.terminal(),
        "",
        f"States inside the encoder, {behind}:",
        states.terminal(keys=2),
        "",
    ]
    lines += [
        f"{each['source']}: nothing stood still, so the encoder has to make all of it"
        for each in videos
        if not each["stood_still"]
    ]
    return [*lines, _choice(chosen, told["agreement"])]


def _choice(chosen: Mapping[str, Any], agreement: float) -> str:
    parts = [f"{name} {chosen[name]:g}" for name in _OPTIONS if chosen[name] is not None]
    if not parts:
        return (
            f"chosen: everything is encoded, because nothing stood still or stage 1 would have merged less than "
            f"{percent(agreement, 1)} of what did"
        )
    said = f"chosen: {', '.join(parts)}; saves {percent(chosen['saved'], 1)} of the encoder's work on these videos"
    if chosen["few"]:
        said += (
            f"\nnote: only {chosen['judged']} copies were judged, too few for {percent(agreement, 1)}: take more videos"
        )
    return said


def _by_hand(config: str, pruning: Changes, chosen: Mapping[str, Any], out: Path) -> str:
    """Return the command that writes the config of a choice."""
    given = {name: str(value) for name, value in pruning.given.items() if value is not None}
    given |= {f"reading.{name}": str(chosen[name]).lower() for name in _OPTIONS}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    plugins = [word for each in pruning.plugins for word in ("--plugin", each)]
    return shlex.join(["prunevid", "config", "save", config, *plugins, *words, "--out", str(out)])
