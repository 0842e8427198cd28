"""A file that a reader of the wheel and CONTRIBUTING wrote, who had not seen the code; and what stopped that reader."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import prunevid_qwen
from prunevid_qwen import ConfigError, PruneVidConfig, Step, TokenMap, check_reducer, pruned
from prunevid_qwen.cli import main
from prunevid_qwen.config import FastVOptions, PruneVidMergeOptions, PyramidDropOptions, UniformOptions
from prunevid_qwen.config.plugins import load_plugin
from prunevid_qwen.errors import ContractBroken, UnknownOption
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.forward.pruning import plan_of
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.reducer import reducer_class
from prunevid_qwen.stage2_select import FastV
from tests.command_configs import configs_of
from tests.models import tiny_model

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
FILE = str(Path(__file__).parent / "plugins" / "spread.py")
SPREAD = ["demo", "--plugin", FILE, "--selector", "spread"]


@pytest.fixture
def spread(registry: None) -> Any:
    load_plugin(FILE)
    return reducer_class("spread")


def options_of(spread: Any) -> Any:
    return spread.__mro__[1]


def test_the_file_answers_from_the_command_line(registry: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--selector.distance", "6", "--keep_ratio", "0.25", "--max_new_tokens", "1", "--json"]
    assert main([*SPREAD, *words]) == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    last = stats["steps"][-1]
    assert last["name"] == "spread"
    assert last["tokens_out"] == int(last["tokens_in"] * 0.25)
    assert stats["methods"]["selector"] == {
        "name": "spread", "options": {"keep_ratio": 0.25, "distance": 6, "layers": None},
    }  # fmt: skip
    assert stats["methods"]["merger"]["options"]["tau"] == 0.8


def test_the_file_keeps_the_contract(spread: Any) -> None:
    check_reducer(spread)
    check_reducer(options_of(spread)(distance=1))


def test_the_command_line_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prunevid_qwen.cli", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["prunevid_qwen", prunevid_qwen.__version__])


# ---- layers


@pytest.mark.parametrize(("words", "before"), [("0.99", (0.99,)), ("3,0.5", (3, 0.5)), ("2", (2,)), ("none", None)])
def test_layers_are_typed_as_python_takes_them(
    registry: None, monkeypatch: pytest.MonkeyPatch, words: str, before: Any
) -> None:
    seen = configs_of(monkeypatch)
    assert main([*SPREAD, "--selector.layers", words]) == 3
    assert seen[0].selector.layers == before
    assert isinstance(seen[0].selector.layers, type(before))


def asked_of(depth: int, spread: Any) -> dict[str, Any]:
    """Ways to ask for layer 30 of a model of fewer layers."""
    return {
        "config": lambda: compile_plan(PruneVidConfig(selector="fastv", layers=30), depth),
        "flat": lambda: compile_plan(PruneVidConfig(pruning_layer=29), depth),
        "options": lambda: plan_of([FastVOptions(layers=30)], depth),
        "reducer": lambda: plan_of([spread(layers=(30,))], depth),
        "several": lambda: compile_plan(PruneVidConfig(selector=PyramidDropOptions(layers=(1, 2, 30))), depth),
    }


@pytest.mark.parametrize("asked", ["config", "flat", "options", "reducer", "several"])
def test_a_layer_beyond_the_model_is_counted_as_the_option_counts(spread: Any, asked: str) -> None:
    with pytest.raises(ConfigError) as error:
        asked_of(8, spread)[asked]()
    said = str(error.value)
    assert "layers=30" in said and "1 to 8" in said
    assert "pruning_layer=29" in said and "0 to 7" in said  # the same, by the flat name
    assert "share" not in said  # 30 of 28 is none


def test_a_share_is_offered_for_the_layers_of_the_papers_model() -> None:
    with pytest.raises(ConfigError) as error:
        compile_plan(PruneVidConfig(selector="fastv", layers=11), 8)
    assert "layers=0.36" in str(error.value)
    assert [cut.at for cut in compile_plan(PruneVidConfig(selector="fastv", layers=0.36), 8).cuts] == [2]
    assert "layers=3" in str(error.value)  # which is that place, as `layers` count
    with pytest.raises(ConfigError) as error:
        compile_plan(PruneVidConfig(selector="fastv", layers=28), 8)
    assert "layers=0.96" in str(error.value)  # 27 of 28


def test_the_last_layers_that_there_are(spread: Any) -> None:
    assert [cut.at for cut in compile_plan(PruneVidConfig(selector="fastv", layers=8), 8).cuts] == [7]
    assert [step.at for step in plan_of([spread(layers=(8,))], 8).steps] == [7]


# ---- names


@pytest.mark.parametrize(("words", "offered"), [
    ([*SPREAD, "--distance", "6"], "--selector.distance"),
    ([*SPREAD, "--distanze", "6"], "--selector.distance"),
    ([*SPREAD, "--selecter.distance", "6"], "--selector.distance"),
    (["demo", "--plugin", FILE, "--distance", "6"], "--selector spread --selector.distance"),
    (["demo", "--selector=fastv", "--layers", "6"], "--selector.layers"),
    (["demo", "--recycle", "0.1"], "--selector sparsevlm --selector.recycle"),
], ids=lambda each: each if isinstance(each, str) else "")  # fmt: skip
def test_an_option_without_its_full_name_is_offered_it(
    registry: None, capsys: pytest.CaptureFixture[str], words: list[str], offered: str
) -> None:
    assert main(words) == 2
    assert offered in capsys.readouterr().err


def test_an_option_that_nobody_has_is_offered_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--devize", "cpu"]) == 2
    assert "--device" in capsys.readouterr().err
    assert main(["demo", "--qqqqqqqq"]) == 2
    assert "--selector" not in capsys.readouterr().err


@pytest.mark.parametrize("given", [
    lambda: PruneVidConfig(selector="spread", **{"selector.distence": 3}),
    lambda: PruneVidConfig.from_dict({"format": 2, "selector": {"name": "spread", "distence": 3}}),
    lambda: PruneVidConfig(selector="spread", distence=3),
    lambda: PruneVidConfig(selector="spread").replace(**{"selector.distence": 3}),
])  # fmt: skip
def test_a_wrong_name_is_offered_the_nearest(spread: Any, given: Any) -> None:
    with pytest.raises(UnknownOption, match="did you mean 'distance'"):
        given()


# ---- help


def test_help_shows_the_options_of_the_methods_that_stand_there(
    registry: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SPREAD, "--help"]) == 0
    said = capsys.readouterr().out.partition("Options of selector spread")[2]
    for name, default in (("distance", "4"), ("keep_ratio", "0.4"), ("layers", "none")):
        assert f"--selector.{name}" in said
        assert default in said.partition(f"--selector.{name}")[2][:200]
    assert main(["ask", "--help", "--merger=pool", "--selector", "dpp"]) == 0
    said = capsys.readouterr().out
    assert "--merger.merge_images" in said and "--selector.question_tokens" in said
    assert main(["ask", "--help"]) == 0
    assert "--selector.question_tokens" not in capsys.readouterr().out


def test_help_about_a_built_in_method_loads_no_torch() -> None:
    words = "['ask', '--selector', 'dpp', '--help']"
    code = f"import sys; from prunevid_qwen.cli import main; main({words}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_help_about_no_method_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--selector", "no_such_method", "--help"]) == 2
    assert "no_such_method" in capsys.readouterr().err


# ---- values


def test_a_budget_is_checked_before_anything_runs(spread: Any) -> None:
    bad = spread(keep_ratio=25)
    for use in (
        lambda: plan_of([bad], 8),
        lambda: Step(2, bad),
        lambda: pruned(tiny_model(), [bad]).__enter__(),
        lambda: plan_of([options_of(spread)(keep_ratio=25)], 8),
        lambda: PruneVidConfig(selector=options_of(spread)(keep_ratio=25)),
        lambda: check_reducer(bad),
        lambda: check_reducer(options_of(spread)(keep_ratio=25)),
    ):
        with pytest.raises(ConfigError, match=r"keep_ratio .*did you mean 0\.25"):
            use()
    with pytest.raises(ConfigError, match="keep_tokens"):
        Step(2, with_tokens(0))


def test_contributing_says_how_a_bad_value_is_refused(
    registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(# mine\.py\n.*?)```", CONTRIBUTING.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    seen = configs_of(monkeypatch)
    words = ["demo", "--plugin", str(tmp_path / "mine.py"), "--selector", "every", "--selector.step"]
    assert main([*words, "0"]) == 2
    assert seen == []


@pytest.mark.parametrize("depth", [6, 19, 20, 28])
def test_the_depths_default_is_the_one_that_contributing_says(spread: Any, depth: int) -> None:
    (step,) = plan_of([spread(layers=None)], depth).steps
    assert step.at + 1 == (11 if depth >= 20 else int(depth * 10 / 28) + 1)


@dataclass(frozen=True)
class WithTokens:
    keep_tokens: int
    needs = Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        return TokenMap.identity(seen.hidden.shape[0], seen.hidden.device)


with_tokens = WithTokens


@dataclass(frozen=True)
class NothingOptions:
    keep: int = 0
    layers: tuple[int, ...] | None = (1,)


@dataclass(frozen=True)
class Nothing(NothingOptions):
    needs = Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        return TokenMap.keep(torch.arange(self.keep, device=seen.hidden.device), seen.hidden.shape[0])


def test_a_method_that_keeps_nothing_is_told_so() -> None:
    with pytest.raises(ContractBroken, match=r"nothing was left.*at least one token of each") as error:
        check_reducer(Nothing())
    assert error.value.promise == "one of each"


# ---- what stands where


def test_a_reducer_in_a_config_is_told_whose_options_to_pass(spread: Any) -> None:
    for given, named in (
        (spread(distance=6), "SpreadOptions"), (spread, "SpreadOptions"), (options_of(spread), "SpreadOptions"),
        (FastV(), "FastVOptions"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"pass {named}\("):
            PruneVidConfig(selector=given)
    with pytest.raises(ConfigError, match="merger=PruneVidMergeOptions"):
        PruneVidConfig(selector=PruneVidMergeOptions())
    with pytest.raises(ConfigError, match="selector=UniformOptions"):
        PruneVidConfig(merger=UniformOptions())


def test_options_in_a_step_are_told_which_class_to_pass(spread: Any) -> None:
    with pytest.raises(ConfigError, match=r"Spread\("):
        Step(at=3, by=options_of(spread)())
    with pytest.raises(ConfigError, match=r"Uniform\("):
        Step(at=3, by=UniformOptions())  # type: ignore[arg-type]


def test_a_list_has_no_stage_1_of_its_own(spread: Any) -> None:
    assert plan_of([spread()], 8).door is None
    assert compile_plan(PruneVidConfig(selector="spread"), 8).door is not None


def test_blocks_count_visual_tokens_and_stand_at_the_root() -> None:
    assert prunevid_qwen.Block("video", (1, 2, 2), 4, 8).stop == 8


def test_a_wrong_option_of_a_command_without_plug_ins_loads_none(
    registry: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "loaded.py"
    path.write_text("raise RuntimeError('it was loaded')")
    for words in (["eval", "tables", "runs"], ["eval", "check", "mvbench"]):
        assert main([*words, "--plugin", str(path), "--help"]) == 2
        assert main([*words, "--plugin", str(path)]) == 2
        assert "it was loaded" not in capsys.readouterr().err


def test_what_verbose_says_of_options_is_what_the_methods_have(
    registry: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SPREAD, "--selector.distance", "6", "--max_new_tokens", "1", "--verbose"]) == 0
    said = capsys.readouterr().out
    assert "distance: 6" in said and "tau: 0.8" in said and "max_frames: 16" in said
    assert "attention_source" not in said and "pruning_layer" not in said
