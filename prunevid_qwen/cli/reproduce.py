"""``prunevid reproduce``: a published table run anew, with its figures, as theirs, beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import TOYS
from prunevid_qwen.cli.groups import ModelOptions, ShardedEngineOptions
from prunevid_qwen.cli.option import opt
from prunevid_qwen.cli.output import Done, Reporting, outline, typed
from prunevid_qwen.errors import ConfigError, MediaError, quoted

_LESS = "Deviations, told on the page"
TABLES = {
    "holitom": "HoliTom, FastVID, VisionZip on LLaVA-OneVision-7B at 25 to 10 %.",
    "llava15": "SparseVLM, VisionZip, DART, FastV on LLaVA-1.5-7B at 192, 128, 64 tokens.",
    "llava15_lmms": "CDPruner, DivPrune, VisionZip on LLaVA-1.5-7B, by lmms-eval.",
    "llava15_rerun": "Five methods on LLaVA-1.5-7B as one group ran them.",
    "simplecluster": "SimpleCluster on LLaVA-OneVision-7B at 25 to 1 %.",
    "vidcom2": "VidCom2 on LLaVA-OneVision-7B at 25 and 15 %.",
    "vidcom2_qwen3": "VidCom2 on Qwen3-VL-8B at 25 %.",
    "prunevid_table6": "PruneVid's Qwen2.5-VL rows: MVBench, Video-MME, EgoSchema.",
    "fastvid": "FastVID's Qwen2.5-VL rows: Video-MME at 768 frames.",
    "flashvid": "FlashVID's Qwen2.5-VL rows at 25 to 10 % of the tokens.",
    "glimpseprune_vstar": "GlimpsePrune on V*: accuracy, and time and memory.",
}
"""The published tables by name, and a line on each; what they are in full, the evaluation package knows."""


@dataclass(frozen=True)
class TableModel(ModelOptions):
    """Which model answers instead of the table's."""

    model_path: str = opt(
        "", f"Hub id, folder, {' or '.join(TOYS)}. Default: the table's.", "ID|FOLDER", "Model", short="-m"
    )
    glimpse_path: str | None = opt(None, "The predictor's. Default: as published.", "ID|FOLDER", "Model", rest=True)


def reproduce(
    *,
    published: str,
    data: list[str] | None = opt(None, "A data set's folder; NAME=DIR where the table has several.", "[NAME=]DIR"),
    only: list[str] | None = opt(None, "Run this data set alone, once for each.", "NAME"),
    setting: list[str] | None = opt(None, "One setting alone, of those below. Default: all.", "NAME"),
    out: Path | None = opt(None, "Default: runs/reproduce/ and the table's name.", "FOLDER"),
    restart: bool = opt(False, "Throw away what the folders hold."),
    dry_run: bool = opt(False, "Check everything up to the model, and say what it would take."),
    page_only: bool = opt(False, "Ask nothing: write the page of what is there."),
    limit: int | None = opt(None, "So many questions a data set, equally spaced. It may grow.", "INT", _LESS, least=1),
    frames: int | None = opt(None, "Frames a video, at most.", "INT", _LESS),
    min_pixels: int | None = opt(None, "Pixels a frame at least.", "INT", _LESS),
    max_pixels: int | None = opt(None, "Pixels a frame at most.", "INT", _LESS),
    total_pixels: int | None = opt(None, "Pixels a video at most.", "INT", _LESS),
    new_tokens: int | None = opt(None, "Tokens of a timed answer.", "INT", _LESS, least=2),
    model: TableModel,
    engine: ShardedEngineOptions,
    output: Reporting,
) -> Done:
    """Run a published table anew and put its figures, as theirs, beside ours."""
    from prunevid_qwen.evaluation.published import reproduce as anew
    from prunevid_qwen.evaluation.published import timing
    from prunevid_qwen.evaluation.published.table import published_table

    table = published_table(published)
    out = out or Path("runs") / "reproduce" / published
    if model.glimpse_path and table.glimpse is None:
        raise ConfigError(f"no row of {published} has a predictor: leave --glimpse_path out")
    if page_only and (dry_run or restart):
        raise ConfigError("--page_only asks nothing, and so goes with neither --dry_run nor --restart")
    settings = table.settings_called(tuple(setting or ()))
    if new_tokens and not any(each.timed for each in settings):
        raise ConfigError(f"leave --new_tokens out: nothing of {published} that was asked for is timed")
    if page_only:
        return _pages(table, settings, out)
    less = {"frames": frames, "min_pixels": min_pixels, "max_pixels": max_pixels, "total_pixels": total_pixels}
    changes = {name: value for name, value in less.items() if value is not None}
    shared = _folders(data or (), table), tuple(only or ()), changes, limit, model.model_path or table.model
    asked = [anew.Reproduction(table, each, *shared, model.glimpse_path, model.loading) for each in settings]
    if settings[0].through_lmms:
        if engine.share[1] > 1 or engine.engine != "local" or engine.workers is not None:
            raise ConfigError("lmms-eval has processes of its own: --dry_run says how to start it on several GPUs")
        return _through_lmms(asked, out, dry_run, restart, output)
    if dry_run:  # what is missing is said before anything runs
        return _planned(asked, output)
    for each in asked:
        each.read()
    number, of = engine.share
    with engine.running(output, out, model) as (moved, opened, device):  # one of all settings, one model
        for each in asked:
            own = each.setting
            prefix = "" if len(table.settings) == 1 else f"{own.name}, "

            def tell(what: str, done: int, total: int, prefix: str = prefix) -> None:
                moved(f"{prefix}{what}", done, total)

            run = replace(each, device=device)
            if not own.timed:
                anew.reproduce(run, out / own.name, opened, engine.share, restart, tell, typed())
            elif number == 0:  # times are of one process: the first share's
                if engine.engine == "ray":
                    output.note(f"note: {own.name} is measured by this process, on this machine's device")
                folder, tokens = out / own.name / run.sets[0].name, new_tokens or own.new_tokens
                timing.measure(run, folder, tokens, restart, tell, typed())
    if of > 1:
        again = f"prunevid reproduce {published} --page_only --out {out}"
        output.note(f"share {number} of {of} is answered; when all are: {again}")
        return Done({"out": str(out), "shard": [number, of]})
    return _pages(table, settings, out)


def _through_lmms(asked: Sequence[Any], out: Path, dry_run: bool, restart: bool, output: Reporting) -> Done:
    """Have lmms-eval answer what is left of each setting and write the pages, or say what would be asked."""
    from prunevid_qwen.evaluation.lmms_plugin.several import command_of
    from prunevid_qwen.evaluation.published import lmms_rows
    from prunevid_qwen.evaluation.published.estimate import cost_lines, figure_lines

    if not dry_run:
        for each in asked:
            with output.running(out, each.model_path):
                lmms_rows.lmms_run(each).start(out / each.setting.name, restart)
        return _pages(asked[0].table, [each.setting for each in asked], out)
    told, lines = {}, []
    for each in asked:
        found = lmms_rows.check_lmms(each, out / each.setting.name)
        found |= {"command": " ".join(command_of(Path(found["file"]))), "cost": cost_lines(each.setting)}
        told[each.setting.name] = found
        lines += [f"setting {each.setting.name}; published, theirs:", *figure_lines(each.setting)]
        lines += [outline(found) + "\n"]
    lines += ["all is there up to lmms-eval and its data; leave out --dry_run to run, or start the command yourself"]
    return Done(told, "\n".join(lines))


def explained(name: str) -> str:
    """Return what stands behind the options of a table's command: its figures, settings and data sets."""
    from prunevid_qwen.evaluation.published.estimate import describe
    from prunevid_qwen.evaluation.published.table import published_table

    described = "\n".join(describe(published_table(name)))
    return f"{described}\n\nExamples:\n  prunevid reproduce {name} --data ~/data/SET --dry_run\n"


def _pages(table: Any, settings: Sequence[Any], out: Path) -> Done:
    """Write the page of each setting."""
    from prunevid_qwen.evaluation.published.table_page import PAGE, write_page

    told, lines = {}, []
    for each in settings:
        told[each.name] = found = write_page(table, each, out / each.name)
        if each.timed:
            lines.append(f"{each.name}, {found['images']} of {found['of']} images were measured")
        lines += [f"{each.name}, {data['title']}: {data['state']}" for data in found.get("asked", ())]
        if count := len(found["deviations"]):
            lines.append(f"note: {count} deviations from the published setting; the page names them")
        lines.append(f"page: {out / each.name / PAGE}")
    return Done(told, "\n".join(lines))


def _planned(asked: Sequence[Any], output: Reporting) -> Done:
    """Say what would be run, what it would take, and of which data set nothing can be read."""
    from prunevid_qwen.evaluation.published.estimate import cost_lines, figure_lines
    from prunevid_qwen.evaluation.published.reproduce import check

    told: dict[str, Any] = {}
    unread, lines = False, []
    for run in asked:
        sets, cost = check(run), cost_lines(run.setting)
        told[run.setting.name] = {"asked": sets, "cost": cost}
        lines += [f"setting {run.setting.name}; published, theirs:", *figure_lines(run.setting)]
        lines += [outline({"all of it takes": cost, **{each["title"]: each for each in sets}}) + "\n"]
        for each in [each for each in sets if each["first"] is None]:
            unread, how = True, f"prunevid eval check {each['dataset']} --data {each['folder']}"
            output.note(
                f"error: none of the media of {each['title']} can be read; what is wrong, and what to do: {how}"
            )
    lines += [] if unread else ["all else is there up to the model; leave out --dry_run to run"]
    return Done(told, "\n".join(lines), MediaError.exit_code if unread else 0)


def _folders(given: Sequence[str], table: Any) -> dict[str, Path]:
    found: dict[str, Path] = {}
    own = {each.data.dataset for setting in table.settings for each in setting.sets}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals and len(own) == 1 and len(given) == 1 and text:
            name, folder = next(iter(own)), text
        elif not (equals and name and folder):
            raise ConfigError(f"--data is NAME=FOLDER, such as mvbench=~/data/MVBench; got {quoted(text)}")
        if name in found:
            raise ConfigError(f"--data names {name} twice: {found[name]} and {folder}")
        found[name] = Path(folder).expanduser()
    return found
