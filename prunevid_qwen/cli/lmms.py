"""``prunevid eval lmms``: tasks of lmms-eval under several configs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prunevid_qwen.cli.groups import ModelOptions
from prunevid_qwen.cli.option import opt
from prunevid_qwen.cli.output import Done, Reporting, outline, terminal_table
from prunevid_qwen.cli.pruning_options import CONFIGS_HELP, Changes, pruning_group
from prunevid_qwen.config.typed import named_configs, names_in_text
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.protocol.protocol import BY_PROTOCOL, KEPT_BY_BASELINE


def lmms(
    *,
    tasks: str = opt(..., "Tasks as lmms-eval calls them, with commas between: gqa,pope,mme.", "NAMES"),
    configs: str = opt("paper", f"{CONFIGS_HELP} Default: paper, beside the baseline.", "NAMES"),
    no_baseline: bool = opt(False, "Leave out the unpruned model."),
    limit: int | None = opt(None, "The first so many documents of each task. Default: all.", "INT", least=1),
    min_pixels: int | None = opt(None, "Pixels of an image or a frame at least.", "INT"),
    max_pixels: int | None = opt(None, "Pixels of an image or a frame at most.", "INT"),
    frames: int | None = opt(None, "Frames a video.", "INT"),
    out: Path = opt(Path("runs/lmms"), "Folder of the results. Default: runs/lmms.", "FOLDER"),
    dry_run: bool = opt(False, "Write lmms-eval's file, and say how to start it: on several GPUs, for instance."),
    restart: bool = opt(False, "Have everything scored again."),
    model: ModelOptions,
    output: Reporting,
    pruning: Annotated[Changes, pruning_group(without=BY_PROTOCOL)],
) -> Done:
    """Run tasks of lmms-eval under several configs, one after the other, and lay their scores side by side.

    Examples:
      prunevid eval lmms --tasks gqa,pope --configs visionzip,cdpruner,recommended -m llava-hf/llava-1.5-7b-hf
      ... --dry_run          write lmms-eval's file alone, to start it on several GPUs yourself

    lmms-eval is needed in the same environment: pip install 'prunevid_qwen[lmms]'. A stopped run goes on where it
    was. After a run of your own the same command writes the table and asks what is left.
    """
    from prunevid_qwen.evaluation.lmms_plugin import several
    from prunevid_qwen.evaluation.tasks.visual_cot import competitors

    if pruning.plugins:
        raise ConfigError(
            f"lmms-eval runs in a process of its own, which --plugin {pruning.plugins[0]} does not reach: install the "
            "method's package with an entry point in the group prunevid.methods"
        )
    made = competitors(named_configs(configs, pruning.given, KEPT_BY_BASELINE), not no_baseline)
    given = {name: value or None for name, value in model.loading.items()}
    given |= {"frames": frames, "min_pixels": min_pixels, "max_pixels": max_pixels}
    asked = several.LmmsRun(names_in_text(tasks), made, model.model_path, given, limit)
    if dry_run:
        path, left = asked.write(out, restart)
        told = {"file": str(path), "command": several.command_of(path), "configs": left}
        return Done(told, f"{outline(told)}\nall is there up to lmms-eval; leave out --dry_run to run")
    with output.running(out, model.model_path):
        asked.start(out, restart)
    scores = asked.scores(out)
    table = several.scores_table(scores)
    return Done(scores, f"{terminal_table(table, keys=1, columns=7)}\nfolder: {out}")
