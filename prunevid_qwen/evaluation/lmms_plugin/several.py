"""Several configs in one run of lmms-eval: an entry of its ``--config`` file for each, and what they scored.

lmms-eval knows one config a model, and runs the entries of such a file in turn. Each entry's config is a JSON file in a
folder that is called by what it holds, because lmms-eval's cache of answers knows a model by its arguments alone.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunevid_qwen.bundled import is_bundled
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError, quoted
from prunevid_qwen.evaluation.engine.answering import NamedConfigs
from prunevid_qwen.evaluation.lmms_plugin.requests import read_arguments
from prunevid_qwen.evaluation.report.page import Table, json_text, number
from prunevid_qwen.evaluation.store import digest_of, replace
from prunevid_qwen.loading import check_source

ENTRIES, CONFIG = "lmms.json", "config.json"
_CACHE = "prunevid"  # any name: the same one finds a stopped run's answers

Scores = dict[str, dict[str, float]]
"""Task -> metric, as lmms-eval calls them, -> value."""


@dataclass(frozen=True)
class LmmsRun:
    """What lmms-eval is asked, and whom.

    Raises:
        ConfigError: no task, no such model, or an argument that it does not take.
    """

    tasks: tuple[str, ...]  # as lmms-eval calls them
    configs: NamedConfigs
    pretrained: str = "bundled"
    # of the model, beside its config: see `requests.KINDS`; None is not given
    arguments: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None  # documents of each task, the first ones; None takes all

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("lmms-eval needs a task: see `lmms-eval tasks`, such as gqa,pope")
        if not is_bundled(self.pretrained):
            check_source(self.pretrained)
        read_arguments({"pretrained": f"'{self.pretrained}'", **self._given})

    @property
    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self.arguments.items() if value is not None}

    def entries(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Return the entry of each config by its name; ``folder`` is where their configs and results lie.

        `ConfigError`: lmms-eval would take the folder's name for several things.
        """
        found, place = {}, folder.absolute()
        if set(str(place)) & set(",\"'"):
            raise ConfigError(f"lmms-eval cannot write to {place}: name a folder without commas and quotes")
        for name, config in self.configs:
            own = place / digest_of(config.to_dict()).split()[-1][:12]
            given = {"pretrained": self.pretrained, "config": str(own / CONFIG), **self._given}
            found[name] = {
                "model": "prunevid_qwen",
                "model_args": ",".join(f"{each}={_written(each, value)}" for each, value in given.items()),
                "tasks": ",".join(self.tasks),
                "batch_size": 1,
                "log_samples": True,
                "output_path": str(own),
                "use_cache": str(place / "cache"),
                "env": {"LMMS_CACHE_RUN_ID": _CACHE},
                "verbosity": "DEBUG",  # else an exception ends with exit code 0
                **({} if self.limit is None else {"limit": self.limit}),
            }
        return found

    def write(self, folder: Path, restart: bool = False) -> tuple[Path, list[str]]:
        """Write the configs, and the entries of those that have no score yet, or of all.

        Returns: lmms-eval's file, and the names of the configs in it.
        """
        entries = self.entries(folder)
        done = {} if restart else self.scores(folder)
        left = [name for name in entries if set(self.tasks) - done.get(name, {}).keys()]
        for name, config in self.configs:
            path = Path(entries[name]["output_path"]) / CONFIG
            path.parent.mkdir(parents=True, exist_ok=True)
            config.to_json(path)
        replace(
            folder / ENTRIES,
            json_text(list({entries[name]["output_path"]: entries[name] for name in left}.values())).encode(),
        )
        return folder / ENTRIES, left

    def start(self, folder: Path, restart: bool = False) -> None:
        """Have lmms-eval answer what is left, in a process of its own; none is started where nothing is.

        Raises:
            SetupError: lmms-eval is not installed, or it failed.
        """
        path, left = self.write(folder, restart)
        if not left:
            return
        if importlib.util.find_spec("lmms_eval") is None:
            raise SetupError("lmms-eval is not installed beside this package: pip install 'prunevid_qwen[lmms]'")
        code = subprocess.run(command_of(path), check=False).returncode
        lacking = [name for name, found in self.scores(folder).items() if set(self.tasks) - found.keys()]
        if code or lacking:
            raise SetupError(
                f"lmms-eval ended with exit code {code} and left no score of {', '.join(lacking) or 'no config'}: its "
                "log above says why; the same command goes on after the last stored answer"
            )

    def scores(self, folder: Path) -> dict[str, Scores]:
        """Return what lmms-eval scored for each config under just these arguments and this limit."""
        entries, found = self.entries(folder), dict[str, Scores]()
        for name, entry in entries.items():
            own = [
                results
                for results in results_in(Path(entry["output_path"]))
                if (results["config"]["model_args"], results["config"]["limit"]) == (entry["model_args"], self.limit)
            ]
            found[name] = {task: metrics for results in own for task, metrics in scores_in(results).items()}
        return found


def command_of(entries: Path) -> list[str]:
    """Return the command that has lmms-eval run a file of entries."""
    return [sys.executable, "-m", "lmms_eval", "--config", str(entries)]


def _written(name: str, value: Any) -> str:
    if not isinstance(value, str):
        return str(value)
    if '"' in value:
        raise ConfigError(f"{name} is handed to lmms-eval in double quotes and can hold none, got {quoted(value)}")
    return f'"{value}"'  # a comma, or a text that looks like a number


def results_in(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield lmms-eval's results under a folder, the oldest first: their files begin with the time."""
    for path in sorted(folder.rglob("*_results.json"), key=lambda each: each.name):
        yield json.loads(path.read_text(encoding="utf-8"))


def config_of_results(folder: Path) -> Iterator[tuple[PruneVidConfig, dict[str, Any]]]:
    """Yield what `LmmsRun` left in a folder: a config and lmms-eval's results with it, the oldest first."""
    for path in sorted(folder.glob(f"*/{CONFIG}")):
        for results in results_in(path.parent):
            yield PruneVidConfig.from_json(path), results


def scores_in(results: Mapping[str, Any]) -> Scores:
    """Return the numbers of each task in lmms-eval's results; a metric that filters share is the first filter's."""
    found: Scores = {}
    for task, metrics in results["results"].items():
        own = found.setdefault(task, {})
        for name, value in metrics.items():
            if isinstance(value, (int, float)) and "stderr" not in name and "," in name:
                own.setdefault(name.partition(",")[0], value)
    for group in results.get("group_subtasks", {}):  # one without a score of its own was asked all the same
        found.setdefault(group, {})
    return found


def scores_table(scores: Mapping[str, Scores]) -> str:
    """Return a table: a row a config, a column a metric of a task, as lmms-eval calls and counts them."""
    columns = dict.fromkeys((task, name) for found in scores.values() for task, own in found.items() for name in own)
    rows = [[name, *(number(found.get(t, {}).get(m)) for t, m in columns)] for name, found in scores.items()]
    return "\n".join(Table(("config", *(f"{task} {metric}" for task, metric in columns)), rows).markdown())
