"""``prunevid tune budget``: the smallest budget at which the model answers as it does without pruning."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from prunevid_qwen.cli.groups import ModelOptions
from prunevid_qwen.cli.option import opt, word
from prunevid_qwen.cli.output import NOT_SHOWN, SIGNALLED, Bars, Done, Reporting, check_config_file, write
from prunevid_qwen.cli.pruning_options import CONFIG_KIND, PRESETS_HELP, PruningOptions
from prunevid_qwen.cli.tune import files
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.config.typed import build_config
from prunevid_qwen.errors import ConfigError, MediaError, abridged, excerpt, quoted
from prunevid_qwen.processes.interruption import signal_of

_TRIED = "What is tried"


def budget(
    *,
    videos: list[str] = word(None, "VIDEO...", "Videos like those that will be asked about."),
    question: list[str] | None = opt(None, "Asked of each video. Repeat it for several.", "TEXT", short="-q"),
    questions: Path | None = opt(None, 'A line each: {"question": ...}, and "video" for one alone.', "FILE.jsonl"),
    config: str = opt("paper", PRESETS_HELP, CONFIG_KIND),
    out: Path = opt(Path("budget.json"), "The config to write. Default: budget.json.", "FILE.json"),
    force: bool = opt(False, "Write over a file that is there."),
    max_disagreement: str = opt("5%", "Answers that may differ, 2% or 0.02. Default: 5%.", "SHARE", _TRIED),
    option: str | None = opt(None, "The budget's option. Default: the selector's, or the merger's.", "NAME", _TRIED),
    budgets: tuple[float, ...] = opt((), "Shares kept. Default: 0.8,0.6,0.5 ... 0.05.", "SHARES", _TRIED),
    by: str = opt("exact", "exact: the words. gap: or the likelihood of the other's answer.", "exact|gap", _TRIED),
    max_gap: float = opt(0.5, "Of --by gap: nats a token that may be missing. Default: 0.5.", "NATS", _TRIED),
    clusters: str = opt("videos", "What is drawn independently: videos, or each question.", "videos|questions", _TRIED),
    max_new_tokens: int = opt(64, "Longest answer. Default: 64.", "INT", least=1),
    dry_run: bool = opt(False, "Say what would be asked, and load no model."),
    model: ModelOptions,
    output: Reporting,
    pruning: PruningOptions,
) -> Done:
    """Find the smallest budget at which the model answers as it does without pruning, on your model and your videos.

    No labels are needed. Each video is encoded once and asked about without pruning and under each budget. One half
    of the videos chooses a budget, the other half says how often its answers differ.

    Examples:
      prunevid tune budget *.mp4 --questions asked.jsonl -m Qwen/Qwen2.5-VL-7B-Instruct
      prunevid tune budget a.mp4 b.mp4 -q "What happens?" --max_disagreement 30% --dry_run
      ... --config recommended --option cluster_ratio --budgets 0.3,0.2,0.1
      ... --by gap --max_gap 0.3                another wording counts as agreement
      prunevid ask ... --config budget.json

    A budget is chosen where the first half shows, with a confidence of 95 %,
    that fewer answers differ than --max_disagreement. That takes 60 videos in
    a half for 5 %, and 151 for 2 %, even if no answer differs. Ctrl-C reports
    the videos that are done.
    """
    promise = share_of(max_disagreement)
    base = build_config(config, pruning.given)
    check_config_file(out, force)
    from prunevid_qwen.evaluation.tuning.choosing import (
        BUDGETS,
        check_clusters,
        check_enough,
        chosen,
        configs_of,
        levers,
    )
    from prunevid_qwen.evaluation.tuning.questions_by_video import questions_by_video
    from prunevid_qwen.evaluation.tuning.same_answers import Agreeing

    agreeing = Agreeing(by, max_gap, max_new_tokens)
    lever, configs = configs_of(base, budgets or BUDGETS, option)
    check_clusters(clusters)
    asked = questions_by_video(videos or (), question or (), questions)
    found, missing = files(list(asked))
    output.note_missing([excerpt(each) for each in missing], "videos are missing", ": the others are asked about")
    asked = {name: asked[name] for name in found}
    check_enough(asked, promise, clusters)
    count = sum(map(len, asked.values()))
    told: dict[str, Any] = {"model": model.model_path, "config": config, "option": lever, "by": by}
    told |= {"questions": count, "failed": missing, "promise": promise, "clusters": clusters}
    if dry_run:
        told |= {"videos": found, "budgets": list(configs), "out": str(out)}
        said = (
            f"{count} questions about {len(found)} videos would be asked without pruning and at {len(configs)} values "
            f"of {lever}, and {out} written; leave out --dry_run to do it"
        )
        return Done(told, said, MediaError.exit_code if missing else 0)
    answers, failed, stopped = _answered(model, base, asked, configs, agreeing, output)
    told |= {"failed": {**missing, **failed}, "interrupted": stopped is not None, "out": None}
    told |= chosen(answers, promise, clusters)
    lines = [*report_lines(told), *(f"{name}: not asked about ({why})" for name, why in told["failed"].items())]
    best = told["chosen"]
    if stopped is not None:
        lines.append(f"interrupted: {len(answers)} of {len(asked)} videos are done, and no config was written")
        return Done(told, "\n".join(lines), SIGNALLED + signal_of(stopped))
    if best is None or not told["held"]:
        others = "".join(f", or --option {name}" for name in levers(base) if name != lever)
        lines.append(f"no config was written: pass more videos, a larger --max_disagreement{others}")
        return Done(told, "\n".join(lines), NOT_SHOWN)
    write(out, configs[best].to_json())
    told["out"] = str(out)
    lines.append(f"wrote {out}; use it: prunevid ask ... --config {shlex.quote(str(out))}")
    return Done(told, "\n".join(lines), MediaError.exit_code if told["failed"] else 0)


def share_of(text: str) -> float:
    """Read 2% or 0.02 as a share in (0, 1).

    Raises:
        ConfigError: it is none; 2 is offered as 2%.
    """
    try:
        number = float(text.rstrip().removesuffix("%"))
    except ValueError:
        number = float("nan")
    share = number / 100 if text.rstrip().endswith("%") else number
    if not 0 < share < 1:
        meant = f"; did you mean {number:g}%?" if 1 <= number < 100 and share == number else ""
        raise ConfigError(f"--max_disagreement is a share such as 2% or 0.02, got {quoted(text)}{meant}")
    return share


def _answered(
    model: ModelOptions, base: Any, asked: Mapping[str, Sequence[str]], configs: Any, agreeing: Any, output: Reporting
) -> tuple[list[Any], dict[str, str], KeyboardInterrupt | None]:
    """Ask video by video; an interruption leaves those that are done, and goes on where that is fewer than two.

    Raises:
        MediaError: fewer than two videos can be read.
    """
    from prunevid_qwen import PrunedVLM
    from prunevid_qwen.bundled import is_bundled
    from prunevid_qwen.evaluation.tuning.same_answers import answered
    from prunevid_qwen.forward.plan import compile_plan

    output.calm_libraries()
    if is_bundled(model.model_path):
        said = "note: the bundled toy answers, and its budget is no other model's: pass -m for a real model"
        output.note(typer.style(said, fg="yellow"))
    loading = {name: value for name, value in model.loading.items() if value is not None}
    loaded = PrunedVLM.from_pretrained(model.model_path, config=base, **loading)
    for each in configs.values():
        compile_plan(each, loaded.model.config.get_text_config().num_hidden_layers)  # complains before the first video
    found, failed = [], dict[str, str]()
    try:
        with Bars(output.quiet) as bars:
            for number, (video, own) in enumerate(asked.items()):

                def tell(done: int, frames: int, number: int = number, name: str = Path(video).name) -> None:
                    bars.tell("videos", number, len(asked), figures=f"{name}, {done}/{frames} frames")

                tell(0, 0)
                try:
                    found.append(answered(loaded, video, own, configs, agreeing, tell))
                except MediaError as error:
                    failed[video] = abridged(str(error))
            bars.tell("videos", len(asked), len(asked), figures="")
    except KeyboardInterrupt as interruption:
        if len(found) < 2:
            raise
        return found, failed, interruption
    if len(found) < 2:
        raise MediaError(f"{len(found)} videos could be read, and two are the least: {'; '.join(failed.values())}")
    return found, failed, None


def report_lines(told: Mapping[str, Any]) -> list[str]:
    """Return what was measured as lines for people."""
    from prunevid_qwen.evaluation.report.page import Table

    def cells(row: Mapping[str, Any]) -> list[str]:
        parts = (row["first"], row["held_out"])
        cells = [f"{row['budget']:g}", percent(row["kept"])]
        for part in parts:
            ends = "" if part["interval"] is None else " to ".join(percent(end, 1) for end in part["interval"])
            cells += [percent(part["disagreement"], 1), ends, percent(part["upper"], 1)]
        return cells

    head = (told["option"], "tokens", "differ", "interval", "below", "held out", "interval", "below")
    first = told["rows"][0]["first"]
    held = told["rows"][0]["held_out"]
    promise = percent(told["promise"], 1)
    lines = [
        f"{first['questions']} questions about {first['videos']} videos choose, {held['questions']} about "
        f"{held['videos']} are held out. tokens: the mean of the layers. differ: answers that are not the unpruned "
        "model's, their clustered interval, and the share below which they lie with a confidence of 95 %",
        "",
        Table(head, [cells(row) for row in told["rows"]]).terminal(),
        "",
    ]
    own = next((row for row in told["rows"] if row["budget"] == told["chosen"]), None)
    if own is None:
        return [*lines, f"chosen: none; no budget is shown to change fewer than {promise} of the answers"]
    part = own["held_out"]
    ends = "" if part["interval"] is None else f", {' to '.join(percent(end, 1) for end in part['interval'])}"
    kept = "within" if told["held"] else "above"
    lines.append(
        f"chosen: {told['option']} {own['budget']:g}, {percent(own['kept'])} of the tokens; held out, "
        f"{percent(part['disagreement'], 1)} of the answers differ{ends}, {kept} the promise of {promise}"
    )
    return lines
