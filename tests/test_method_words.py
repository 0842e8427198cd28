"""Options of methods on the command line, and methods from files and packages."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from prunevid_qwen import check_reducer
from prunevid_qwen.cli import main
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.methods import (
    FastVOptions,
)
from prunevid_qwen.config.typed import typed_values
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.reducer import (
    decided_by,
    reducer_class,
    register,
)
from tests.command_configs import configs_of
from tests.test_reducer_contract import evidence, only_what_it_asks_for
from tests.test_registered_methods import Every

# ---- the command line

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
FILE = """
from dataclasses import dataclass

from prunevid_qwen import TokenMap
from prunevid_qwen.reducer import Needs, register


@dataclass(frozen=True)
class FirstOptions:
    count: int = 4
    note: str | None = None
    layers: tuple[int, ...] | None = (1,)


@register("first", FirstOptions)
@dataclass(frozen=True)
class First(FirstOptions):
    @property
    def needs(self) -> Needs:
        return Needs()

    def plan(self, seen):
        n = seen.layout.visual.numel()
        return TokenMap.keep(seen.layout.visual.new_tensor(range(min(n, self.count))), n)
"""


@pytest.mark.parametrize(("words", "config"), [
    (["--selector", "fastv", "--selector.layers", "3"], PruneVidConfig(selector=FastVOptions(layers=(3,)))),
    (["--selector.keep-ratio=0.3", "--merger.merge_images", "true"], PruneVidConfig(keep_ratio=0.3, merge_images=True)),
    (["--merger.static_cluster_ratio", "none", "--reading.fps", "3"], PruneVidConfig(fps=3.0)),
    (["--selector.layers", "0.25"], PruneVidConfig(pruning_layer=0.25)),
], ids=str)  # fmt: skip
def test_full_names_on_the_command_line(
    words: list[str], config: PruneVidConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = configs_of(monkeypatch)
    assert main(["demo", *words]) == 3
    assert seen == [config]


@pytest.mark.parametrize("words", [
    ["--selector.tau", "0.5"], ["--selector.layers", "x"], ["--selector.layers"], ["--merger.tau", "80"],
    ["--keep_ratio", "0.2", "--selector.keep_ratio", "0.3"], ["--selectr.keep_ratio", "0.2"],
    ["--selector", "uniform", "--attention_source", "pre_rope"], ["--selector.layers", "1,2"],
    ["--plugin", "no_such_file.py"], ["--plugin", "no_such_module_of_anybody"],
], ids=str)  # fmt: skip
def test_wrong_full_names_and_plugins_are_bad_options(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert configs_of(monkeypatch) == [] and main(["demo", *words]) == 2


@pytest.mark.parametrize(("option", "full"), [
    ("--keep_tokens", "--selector.keep_tokens"), ("--retained-tokens", "--selector.retained_tokens"),
    ("--time_limit", "--reading.time_limit"),
])  # fmt: skip
def test_an_option_without_a_short_name_is_offered_in_full(
    option: str, full: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", option, "3"]) == 2
    assert full in capsys.readouterr().err
    assert main(["bench", "speed", option, "3"]) == 2  # which takes no full names
    assert full not in capsys.readouterr().err


def test_a_plugin_in_a_file(registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, path = configs_of(monkeypatch), tmp_path / "mine.py"
    path.write_text(FILE)
    words = ["--selector", "first", "--selector.count", "7", "--selector.note", "x", "--selector.layers", "2"]
    assert main(["demo", *words]) == 2  # nobody has registered it yet
    assert main(["demo", "--plugin", str(path), *words]) == 3
    (config,) = seen
    assert (config.selector.count, config.selector.note, config.selector.layers) == (7, "x", (2,))
    assert [cut.at for cut in compile_plan(config, 6).cuts] == [1]


@dataclass(frozen=True)
class KindsOptions:
    mode: Literal["near", "far", 3] = "near"
    some: list[int] | None = None
    shares: tuple[float, ...] = ()
    layers: int | None = None


@pytest.mark.parametrize(("name", "text", "value"), [
    ("mode", "far", "far"), ("mode", "3", 3), ("some", "4,5", [4, 5]), ("some", "none", None),
    ("shares", "0.5", (0.5,)),
])  # fmt: skip
def test_texts_become_what_an_option_of_somebodys_method_is(registry: None, name: str, text: str, value: Any) -> None:
    register("kinds", KindsOptions)(Every)
    base = PruneVidConfig(selector=KindsOptions())
    assert typed_values(base, {f"selector.{name}": text}) == {f"selector.{name}": value}
    with pytest.raises(ConfigError, match=name):
        typed_values(base, {f"selector.{name}": "elsewhere"})


def test_the_method_of_contributing_is_a_plugin(
    registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, path = configs_of(monkeypatch), tmp_path / "mine.py"
    (code,) = re.findall(r"```python\n(# mine\.py\n.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)
    path.write_text(code)
    assert main(["demo", "--plugin", str(path), "--selector", "every", "--selector.step", "3"]) == 3
    (cut,) = compile_plan(seen[0], 6).cuts
    assert cut.at == 2
    assert cut.by.plan(evidence("one video")).rep.tolist() == list(range(0, 96, 3))


def test_the_plugin_of_a_newcomer_answers_from_the_command_line(
    registry: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file written with the wheel and CONTRIBUTING alone, by somebody who had not seen the code."""
    path = Path(__file__).parent / "plugins" / "late.py"
    words = ["--plugin", str(path), "--selector", "late", "--selector.lateness", "3", "--keep_ratio", "0.5", "--json"]
    assert main(["demo", *words, "--max_new_tokens", "1"]) == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    last = stats["steps"][-1]
    assert (last["name"], last["where"]) == ("late", "layer 1")
    assert last["tokens_out"] == int(last["tokens_in"] * 0.5) and stats["config"]["selector.lateness"] == 3
    late = reducer_class("late")
    check_reducer(late)
    times = [int(kept.sum()) for kept in (late_tokens(late, 0.0), late_tokens(late, 50.0))]
    assert times[0] < times[1]


def late_tokens(late: Any, lateness: float) -> torch.Tensor:
    """The temporal positions of what is kept of one video."""
    method = late(lateness=lateness)
    return method.plan(only_what_it_asks_for(method, evidence("one video"))).rep // 24


@pytest.mark.parametrize(("words", "code"), [
    (["--selector.keep_ratio", "2"], 2), (["--selector.layers", "0"], 2), (["--selector.latenes", "2"], 2),
    (["--selector.lateness", "much"], 2), (["--selector.keep_ratio", "0.2"], 3),
], ids=str)  # fmt: skip
def test_options_of_a_plugin_are_checked_like_others(
    registry: None, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int
) -> None:
    seen = configs_of(monkeypatch)
    path = Path(__file__).parent / "plugins" / "late.py"
    assert main(["demo", "--plugin", str(path), "--selector", "late", *words]) == code
    assert len(seen) == (code == 3)


def test_a_class_that_is_no_reducer_is_told_so(registry: None) -> None:
    cls = type("NoNeeds", (), {"__init__": noted})
    register("no_needs", dataclasses.make_dataclass("ItsOptions", [], frozen=True))(cls)
    with pytest.raises(ConfigError, match="no_needs"):
        compile_plan(PruneVidConfig(selector="no_needs"), 6)
    with pytest.raises(ConfigError, match="Tensor"):
        decided_by(type("Returns", (), {"plan": lambda self, seen: torch.arange(3)})(), evidence("one video"))  # type: ignore[arg-type]


def noted(self: Any, options: Any) -> None:
    self.options = options


def test_a_plugin_that_fails_is_the_environments_fault(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import no_such_module_of_anybody")
    assert main(["demo", "--plugin", str(path)]) == 3


def test_an_installed_package_announces_its_methods(
    registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "announced_first.py").write_text(FILE)
    about = tmp_path / "announced_first-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: announced-first\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[prunevid.methods]\nfirst = announced_first\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert PruneVidConfig(selector="first", count=3).selector.count == 3
