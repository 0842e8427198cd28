"""Scripts of eval/reproduce: their arithmetic against the papers' numbers, and runs of them with the bundled model."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.cli import main
from prunevid_qwen.cli.exit_codes import EXIT_CODES
from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.engine.asking import Answering
from prunevid_qwen.evaluation.reproduction import budget, comparison, cost, fastvid, flashvid, run, timing
from prunevid_qwen.evaluation.reproduction.budget import Depth, budget_asked, kept_for, mean_over_layers
from prunevid_qwen.evaluation.reproduction.describe import cost_of, describe
from prunevid_qwen.evaluation.reproduction.published import BASELINE_ROW, PublishedTable, Setting, Timed
from prunevid_qwen.evaluation.reproduction.run import Reproduction
from prunevid_qwen.evaluation.reproduction.tables import TABLES
from prunevid_qwen.evaluation.speed.flops import decoder_flops, vision_flops
from prunevid_qwen.evaluation.speed.model_shapes import SHAPES
from tests.benchmark_folders import Clips, egoschema, videomme, vstar
from tests.shapes_benchmark import shapes_mvbench

SCRIPTS = Path(__file__).resolve().parents[1] / "eval" / "reproduce"
QWEN = Depth(28)
SMALL = ("--device", "cpu", "--workers", "0", "--min_pixels", "784", "--max_pixels", "6272")

LARGER = ("--frames", "8", "--max_pixels", "12544")  # enough tokens that no row is at its least, one


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reproduction ü")
    clips = Clips(root / "clips")
    videomme(root / "videomme", clips)
    egoschema(root / "egoschema", clips)
    (root / "egoschema/videos/00000001-aaaa.mp4").unlink()  # of the full set alone
    vstar(root / "vstar")
    shapes_mvbench(root / "mvbench", videos=1, questions=1)
    return root


def reproduce(name: str, words: Sequence[str]) -> int:
    return main(["reproduce", name, *words])


def call(root: Path, name: str, sets: tuple[str, ...], *words: str) -> int:
    data = [word for each in sets for word in ("--data", f"{each}={root / each}")]
    model = [] if "--model_path" in words else ["--model_path", "bundled"]
    return reproduce(name, [*data, *SMALL, *model, *words])


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "reproduction.json").read_text())
    return found


def page(folder: Path) -> str:
    return (folder / "reproduction.md").read_text()


def rows_of(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    [each] = [each for each in figures(folder)["asked"] if each["name"] == name]
    return {row["row"]: row for row in each["tables"][0]["rows"]}


# ---- budgets: what the papers' own numbers give


@pytest.mark.parametrize("share", flashvid.BUDGETS)
def test_flashvids_own_constants_spend_its_budget(share: float) -> None:
    entering = flashvid.EXPANSION * share
    kept = flashvid.OWN_KEPT * entering
    assert mean_over_layers(entering, kept, flashvid.OWN_FIRST, 28) == pytest.approx(share)
    assert kept_for(share, flashvid.OWN_FIRST, 28, entering) == pytest.approx(kept)


@pytest.mark.parametrize(("tokens", "share"), [(3200, 0.27), (13_447, 0.22)])
def test_flops_of_prunevid_by_its_own_formula(tokens: int, share: float) -> None:
    def count(visual: float) -> float:  # 4 n d^2 + 2 n^2 d + 2 n d m
        return 4 * visual * 3584**2 + 2 * visual**2 * 3584 + 2 * visual * 3584 * 18_944

    found = (11 * count(0.4525 * tokens) + 17 * count(0.181 * tokens)) / (28 * count(tokens))
    assert found == pytest.approx(share, abs=0.005)
    assert f"{share:.2f}x for {tokens:,}" in TABLES["prunevid_table6"].settings[0].rows[1].note


def test_layer_averages_of_prunevid() -> None:
    # PLLaVA: 32 layers, 40.5 % up to layer 10 and 16.2 % after it; Qwen2.5-VL: 18.1 / 0.4 = 45.25 % and 18.1 % of 28
    assert mean_over_layers(0.405, 0.162, 11, 32) == pytest.approx(0.245, abs=1e-3)
    assert mean_over_layers(0.4525, 0.181, 11, 28) == pytest.approx(0.288, abs=5e-4)


@pytest.mark.parametrize(("share", "kept"), [(0.25, 0.1923), (0.20, 0.1385), (0.15, 0.0846), (0.10, 0.0308)])
def test_fastv_keeps_less_than_the_budget_after_its_first_layers(share: float, kept: float) -> None:
    config = budget.fastv_config(share, QWEN)
    assert config.keep_ratio == pytest.approx(kept, abs=5e-5)
    assert (config.selector_name, config.pruning_layer, config.enable_stage1) == ("fastv", 1, False)


@pytest.mark.parametrize("share", flashvid.BUDGETS)
def test_rows_of_a_budget_ask_for_it(share: float) -> None:
    prunevid = budget.prunevid_config(share, QWEN)
    for config, exact in (
        (budget.fastv_config(share, QWEN), True),
        (prunevid, False),
        (budget.before_decoder("random", share), True),
        (budget.before_decoder("uniform", share), True),
    ):
        assert budget_asked(config, QWEN) == (pytest.approx(share), exact)
    assert (prunevid.keep_ratio, prunevid.min_cluster_tokens) == (0.4, 1)


@pytest.mark.parametrize(("options", "share", "exact"), [
    ({"selector": "pyramiddrop"}, (1 + 0.5 + 0.25 + 0.125) / 4, True),
    ({"selector": "pyramiddrop", "merger": "uniform"}, 0.5 * (1 + 0.5 + 0.25 + 0.125) / 4, True),
    ({"selector": "pyramiddrop", "ratios": (0.6, 0.1), "layers": (7, 0.5)}, (7 + 8 * 0.6 + 13 * 0.1) / 28, True),
    ({"selector": "pyramiddrop", "keep_ratio": 0.4}, 0.4, True),
    ({"selector": "sparsevlm", "keep_ratio": 0.3, "merger": "uniform"}, 0.15, True),
    ({"selector": "sparsevlm"}, 1.0, False),  # what is recycled comes on top, and no option says how much
    ({"selector": "fastv", "keep_tokens": 9}, 1.0, False),
    ({"selector": "prunevid", "merger": "rlt"}, (11 + 17 * 0.4) / 28, False),
], ids=str)  # fmt: skip
def test_a_budget_of_several_cuts_is_the_mean_of_what_each_leaves(
    options: dict[str, Any], share: float, exact: bool
) -> None:
    config = PruneVidConfig(**{"enable_stage1": "merger" in options, **options})
    assert budget_asked(config, QWEN) == (pytest.approx(share, abs=1e-6), exact)


def test_what_several_cuts_cost_is_what_each_layer_does() -> None:
    work = cost.Work(questions=1, videos=0, tokens=4000, gigabytes=1.0, why="", text=0, answer=0)
    config = PruneVidConfig(enable_stage1=False, selector="pyramiddrop")
    flops = decoder_flops(SHAPES["7b"], [4000] * 7 + [2000] * 7 + [1000] * 7 + [500] * 7).total
    seconds = 3600 * cost.estimate([("one", work)], [config]).hours - cost.OVERHEAD
    assert seconds * cost.SPEED == pytest.approx(flops, rel=0.01)


def test_a_budget_that_the_first_layers_spend_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 of 28 layers .* are 7\.1 % on average, and the budget is 5\.0 %"):
        budget.fastv_config(0.05, QWEN)


def test_the_glimpse_selects_after_two_thirds() -> None:
    assert [Depth(layers).glimpse_layer for layers in (28, 36, 64, 80)] == [18, 23, 42, 53]
    [capped] = [row for row in TABLES["glimpseprune_vstar"].settings[0].rows if row.name == "GlimpsePrune"]
    assert capped.config is not None
    share, exact = budget_asked(capped.config(QWEN), QWEN)
    assert not exact and share == pytest.approx((19 + 9 * 0.111) / 28)
    for setting in TABLES["glimpseprune_vstar"].settings:
        controls = [row.config(QWEN) for row in setting.rows if row.config and row.name in ("random", "uniform")]
        assert controls and all((each.pruning_layer, each.keep_ratio) == (18, 0.111) for each in controls)


@pytest.mark.parametrize(
    ("model", "given", "taken"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", None, "ashun989/GlimpsePrune_Qwen2.5-VL-7B-Instruct"),
        ("bundled", None, "bundled"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "mine", "mine"),
    ],
)
def test_which_predictor_answers(model: str, given: str | None, taken: str) -> None:
    table = TABLES["glimpseprune_vstar"]
    asked = Reproduction(table, table.settings[0], {"V*": Path()}, model_path=model, glimpse_path=given)
    configs = dict(asked.configs(QWEN)[0])
    assert configs["GlimpsePrune"].glimpse_path == configs["GlimpsePrune without cap"].glimpse_path == taken
    assert configs["baseline"] == get_baseline_config()


def test_fastvids_limit_holds_at_768_frames() -> None:
    protocol = fastvid.long_video("videomme", "lmms")
    assert protocol.frame_pixels(768) * 384 <= 16_384 * 784
    assert protocol.replace(min_pixels=128 * 784).frame_pixels(768) * 384 > 16_384 * 784


# ---- the tables


def test_figures_stand_beside_the_baseline_of_their_own_table() -> None:
    for table in TABLES.values():
        for setting in table.settings:
            known = {
                f"{each.name}{part}"
                for each in setting.asked
                for part in ("", *(f"/{name}" for name in ("short", "medium", "long") if each.axis == "duration"))
            }
            if isinstance(setting, Timed):
                continue
            base = setting.rows[0].published
            assert setting.rows[0].name == BASELINE_ROW
            for row in setting.rows:
                assert set(row.published) <= known
                for name, figure in row.published.items():
                    assert figure.baseline == base[name].score or "own baseline" in row.note, (table.name, row.name)


def test_published_losses() -> None:
    def difference(table: str, setting: int, row: str, name: str) -> float:
        [found] = [each for each in TABLES[table].settings[setting].rows if each.name == row]
        return found.published[name].difference

    assert difference("prunevid_table6", 0, "PruneVid", "videomme") == -0.5
    assert difference("prunevid_table6", 1, "PruneVid stage 1", "videomme") == -8.0
    assert difference("fastvid", 0, "FastVID", "videomme") == -4.5
    assert difference("flashvid", 0, "FastV 10 %", "longvideobench") == -7.8
    assert difference("flashvid", 0, "FlashVID 20 %", "videomme") == -1.7
    assert difference("glimpseprune_vstar", 0, "GlimpsePrune", "vstar") == 1.1


def test_flashvids_table_is_whole() -> None:
    setting = TABLES["flashvid"].settings[0]
    theirs = [row for row in setting.rows if row.published and row.name != BASELINE_ROW]
    assert len(theirs) == 4 * 4 and all(len(row.published) == 4 for row in theirs)
    ours = [row.name.split()[0] for row in setting.rows if row.config is not None]
    assert sorted(set(ours)) == ["FastV", "PruneVid", "baseline", "random", "uniform"]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_script_says_in_its_file_and_its_help_what_it_is(
    table: PublishedTable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SCRIPTS / f"{table.name}.py"
    head = " ".join(file.read_text().split('"""')[1].split())
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(file), run_name="__main__")
    assert left.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f" {code} " in said for code in EXIT_CODES) and " ".join(describe(table)[0].split()) in said
    hours = sum(cost_of(setting).hours for setting in table.settings)
    assert f"About {round(hours)} hours" in head
    for setting in table.settings:
        for words in (setting.frames, setting.pixels, setting.prompt, *setting.unknown):
            assert " ".join(words.split()) in said
        assert f"About {cost_of(setting).hours:.1f} hours of one A100" in said
        for row in setting.rows if isinstance(setting, Setting) else ():
            for name, figure in row.published.items():
                assert f"{name} {figure.score:.1f}" in said
                if row.name == BASELINE_ROW and "/" not in name:
                    assert f"{figure.score:.1f}" in head
    assert "theirs" in head and "theirs" in said


def test_the_estimate_counts_as_the_speed_benchmark_does() -> None:
    shape, tokens, text = SHAPES["7b"], 4096, 100
    counted = decoder_flops(shape, [tokens + text] * 11 + [tokens // 4 + text] * 17).total
    assert cost.prefill_flops(tokens, text, (1.0, 0.25), 11) == pytest.approx(counted, rel=0.01)
    assert pytest.approx(vision_flops(shape, (16, 16, 16)) / 4096, rel=0.05) == cost.VISION
    work = cost.Work(questions=3600, videos=0, tokens=0, gigabytes=1.0, why="", text=0, answer=0)
    config = budget.before_decoder("uniform", 1.0)
    assert cost.estimate([("none", work)], [config, config]).hours == pytest.approx(2 * cost.OVERHEAD)


# ---- running them


def test_a_missing_data_set_is_named_with_what_to_do(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "flashvid", ("mvbench", "videomme")) == 2
    said = capsys.readouterr().err
    assert "needs the data of egoschema, longvideobench" in said and "--data egoschema=FOLDER" in said
    assert call(root, "fastvid", ("mvbench",)) == 2
    assert "got 'mvbench'; the data sets of fastvid are videomme" in capsys.readouterr().err
    assert call(root, "fastvid", ("videomme",), "--only", "mvbench") == 2
    assert "got 'mvbench'; the data sets of fastvid are videomme" in capsys.readouterr().err
    assert reproduce("flashvid", ["--data", "videomme"]) == 2
    assert "--data is NAME=FOLDER" in capsys.readouterr().err
    assert reproduce("fastvid", ["--data", f"videomme={root / 'nowhere'}", "--model_path", "bundled"]) == 2
    assert "nowhere is to be the folder of Video-MME" in " ".join(capsys.readouterr().err.split())


def test_a_dry_run_stops_before_the_model(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PruneVidQwen25VL, "from_pretrained", None)
    fitted: list[tuple[str, int]] = []
    plan = run.compile_plan
    monkeypatch.setattr(
        run, "compile_plan", lambda config, layers: (fitted.append((config.selector, layers)), plan(config, layers))
    )
    sets, out = ("mvbench", "videomme", "egoschema"), ("--out", str(tmp_path / "out"))
    assert call(root, "prunevid_table6", sets, "--dry-run", *out, "--frames", "8", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["16frames", "768frames"]
    for setting in told.values():
        assert [each["asked"] for each in setting["asked"]] == [
            "mvbench", "videomme", "egoschema-subset", "egoschema-full",
        ]  # fmt: skip
        assert all(each["first"]["frames, height, width"][0][0] == 8 for each in setting["asked"][:1])
        assert "hours of one A100" in setting["cost"][0]
    assert not (tmp_path / "out").exists()
    assert len(fitted) == 3 + 4 and {layers for _, layers in fitted} == {8}  # every config is fitted to the model
    # a hub id, without network: everything else is checked
    assert call(root, "fastvid", ("videomme",), "--dry-run", "--model_path", "Qwen/Qwen2.5-VL-7B-Instruct") == 0
    said = capsys.readouterr().out
    assert "not a folder here, so its files were not looked at" in said and "videomme 67.3" in said
    assert said.endswith("all else is there up to the model; leave out --dry_run to run\n")


def test_a_dry_run_that_can_read_nothing_says_so(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(root / "mvbench", tmp_path / "mvbench", ignore=shutil.ignore_patterns("*.mp4"))
    assert call(tmp_path, "flashvid", ("mvbench",), "--only", "mvbench", "--dry-run") == 4
    said = capsys.readouterr()
    assert "missing: 3 media, whose questions will have no answer" in said.out and "up to the model" not in said.out
    assert "none of the media of MVBench (test) can be read" in said.err
    assert f"prunevid eval check mvbench --data {tmp_path / 'mvbench'}" in said.err


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "a/b/c"])
def test_a_model_that_is_neither_a_folder_nor_a_hub_id_is_refused(
    root: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("--dry-run",), ()):
        assert call(root, "fastvid", ("videomme",), *words, "--model_path", path, "--out", str(root / "none")) == 2
        assert f"no model folder at '{path}', and that is no hub id" in capsys.readouterr().err
    assert not (root / "none").exists()


def test_options_that_would_do_nothing_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(root, "fastvid", ("videomme",), "--dry-run", "--new_tokens", "8") == 2
    assert "nothing of fastvid that was asked for is timed" in capsys.readouterr().err
    assert call(root, "glimpseprune_vstar", ("vstar",), "--setting", "accuracy", "--new_tokens", "8") == 2
    assert "nothing of glimpseprune_vstar that was asked for is timed" in capsys.readouterr().err
    for option in ("--restart", "--dry-run"):
        assert reproduce("fastvid", ["--page_only", option]) == 2
        assert "--page_only asks nothing" in capsys.readouterr().err


def test_a_dry_run_of_times_counts_all_that_take_part(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--setting", "efficiency", "--limit", "2", "--dry-run", "--json")
    assert call(root, "glimpseprune_vstar", ("vstar",), *words) == 0
    [each] = json.loads(capsys.readouterr().out)["efficiency"]["asked"]
    assert each["configs"] == ["stock", "baseline", "GlimpsePrune", "random"]
    assert (each["questions"], each["answers"]) == (2, 8)


def test_a_dry_run_finds_weights_missing(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 28}))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    assert call(root, "fastvid", ("videomme",), "--dry-run", "--model_path", str(tmp_path)) == 3
    assert "lacks 1 of 2 files of weights, the first is model-2.safetensors" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ran(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FlashVID's script on two of its data sets, one of them in two parts."""
    out = tmp_path_factory.mktemp("flashvid")
    words = ("--only", "mvbench", "--only", "egoschema-full", "--limit", "2", *LARGER)
    assert call(root, "flashvid", ("mvbench", "egoschema"), *words, "--out", str(out)) == 0
    return out / "32frames"


def test_the_page_has_their_figures_as_theirs_beside_ours(ran: Path) -> None:
    text, rows = page(ran), rows_of(ran, "mvbench")
    assert "Every figure called theirs is that paper's; this project measured none of them." in text
    head = next(line for line in text.splitlines() if line.startswith("| row |"))
    assert head.split(" | ")[1:3] == ["theirs", "their difference"]
    assert "| FastV 25 % | 67.4 | -0.6 | " in text
    assert rows["FastV 25 %"]["published"] == {"score": 67.4, "baseline": 68.0, "difference": -0.6}
    assert rows["FastV 25 %"]["ours"]["difference"]["pairs"] == 2
    assert "| FlashVID 25 % | 67.1 | -0.9 | not implemented here |" in text
    assert rows["FlashVID 25 %"]["ours"] is None and rows["PruneVid 25 %"]["published"] is None


def test_the_page_never_hides_that_it_is_partial(ran: Path) -> None:
    text = page(ran)
    states = {each["name"]: each["state"] for each in figures(ran)["asked"]}
    assert states == {
        "mvbench": "partial", "videomme": "not run", "egoschema-subset": "not run",
        "egoschema-full": "scored by its authors", "longvideobench": "not run",
    }  # fmt: skip
    assert "| MVBench | **PARTIAL**: answered 2 of 3 (errors: 0): baseline, " in text
    assert "the folder holds 3 of the 4000 questions as published" in text
    assert "| Video-MME | **not run** |" in text
    assert " of 2/3 found (" in text and "does not compare" in text
    assert all(row["inside"] is None for row in rows_of(ran, "mvbench").values())


def test_deviations_come_from_what_was_recorded(root: Path, ran: Path) -> None:
    before = page(ran)
    words = ("--page_only", "--out", str(ran.parent))  # says nothing of frames, pixels or the model
    assert reproduce("flashvid", words) == 0
    assert page(ran) == before
    said = figures(ran)["deviations"]
    for words in (
        "model: bundled, not Qwen/Qwen2.5-VL-7B-Instruct", "device: cpu", "frames 8, not 32",
        "max_pixels 12544, not 602112", "FastV 10 %: not run",
    ):  # fmt: skip
        assert words in said
    assert any(words.startswith("FastV 25 %: keep_ratio 0.142857") for words in said)
    assert "| FastV 10 % | 63.6 | -4.4 | not run |" in before


def test_another_predictor_revision_or_dtype_is_a_deviation() -> None:
    table = TABLES["glimpseprune_vstar"]
    for setting in table.settings:
        asked = setting.asked[0]
        configs = {row.name: row.config(QWEN).flat() if row.config else {} for row in setting.rows
                   if row.config or isinstance(setting, Timed)}  # fmt: skip
        for each in configs.values():
            if each.get("selector") == "glimpse":
                each["glimpse_path"] = "/models/GlimpsePrune_Qwen2.5-VL-7B-Instruct"
        record = {
            "options": {"model_path": "/models/Qwen2.5-VL-7B-Instruct", "device": "cuda"},
            "configs": configs, "protocol": asked.protocol.to_dict(),
        }  # fmt: skip
        assert comparison.deviations(table, setting, asked, record) == []
        configs["GlimpsePrune"]["glimpse_path"] = "mine/vip"
        record["options"] |= {"loading: revision": "old", "loading: dtype": "float32"}
        said = [
            f"predictor: mine/vip, not {table.glimpse}",
            "revision: old",
            "dtype: float32, not the checkpoint's bfloat16",
        ]
        assert comparison.deviations(table, setting, asked, record) == said


def test_the_page_shows_what_did_not_run_by_its_published_figures_alone(ran: Path) -> None:
    text = page(ran)
    subset = text.partition("## EgoSchema subset\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[:3] for line in subset.splitlines() if line.startswith("| ") and "| row |" not in line]
    assert rows == [["| baseline", "60.2", ""]]
    assert set(rows_of(ran, "videomme")) == {
        "baseline",
        *(f"{name} {share} %" for name in flashvid.SCORES for share in (25, 20, 15, 10)),
    }


def test_a_deviation_of_one_data_set_names_it(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        comparison,
        "deviations",
        lambda _table, _setting, asked, _record: ["same", "odd"][: 1 + (asked.name == "mvbench")],
    )
    table = TABLES["flashvid"]
    setting = table.settings[0]
    assert isinstance(setting, Setting)
    assert comparison.compare(table, setting, ran)["deviations"] == ["same", "odd (MVBench)"]


def test_rows_spend_what_they_were_asked_to(ran: Path) -> None:
    rows = rows_of(ran, "mvbench")
    for name, row in rows.items():
        if row["ours"] is None:
            continue
        asked, spent = row["asked"], row["achieved"]
        if name != BASELINE_ROW:  # of the bundled model's 8 layers, as the name says
            assert asked["layer_average"] == pytest.approx(int(name.split()[-2]) / 100)
        rounding = 1.0 / spent["visual"]
        assert spent["layer_average_kept"] <= asked["layer_average"] + 1e-9, name
        if asked["exact"]:
            assert spent["layer_average_kept"] >= asked["layer_average"] - rounding, name


def test_hidden_answers_end_in_a_file_for_their_authors(ran: Path) -> None:
    [each] = [each for each in figures(ran)["asked"] if each["name"] == "egoschema-full"]
    one = next(file for file in each["files"] if file["config"] == "FastV 25 %")
    assert (one["answered"], one["of"]) == (1, 3)  # two were asked, and a video is missing
    assert Path(one["file"]).name == "egoschema FastV 25 % (1 of 3).json"
    assert list(json.loads(Path(one["file"]).read_text())) == ["00000000-aaaa"]
    assert "no score here: the answers are not public. Answered: 1 of 3" in page(ran)
    assert "FastV 25 %: 1 of 3 answered, for the authors' server: " in page(ran)


def test_a_run_goes_on_and_others_join_its_page(
    root: Path, ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = page(ran)
    with monkeypatch.context() as without:
        without.setattr(PruneVidQwen25VL, "from_pretrained", None)
        words = ("--only", "mvbench", "--limit", "2", *LARGER, "--out", str(ran.parent))
        assert call(root, "flashvid", ("mvbench",), *words) == 0
    assert page(ran) == before


def test_other_scripts_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, load = [], Answering.load
    monkeypatch.setattr(Answering, "load", lambda self: (loaded.append(self), load(self))[1])
    sets = ("mvbench", "videomme", "egoschema")
    few = ("--limit", "1", "--frames", "4", "--out")
    assert call(root, "prunevid_table6", sets, *few, str(tmp_path / "prunevid")) == 0
    assert len(loaded) == 1  # for eight runs
    for setting in ("16frames", "768frames"):
        rows = rows_of(tmp_path / "prunevid" / setting, "videomme")
        assert rows["PruneVid"]["ours"]["answered"] == 1 and rows["PruneVid"]["published"]["score"] == 64.8
    assert rows["PruneVid stage 1"]["published"]["baseline"] == 67.3
    assert "frames and prompt" not in page(tmp_path / "prunevid" / "16frames")
    assert "frames, pixels and prompt of table 6 are not stated" in page(tmp_path / "prunevid" / "16frames")
    capsys.readouterr()
    assert call(root, "fastvid", ("videomme",), *few, str(tmp_path / "fastvid"), "--json") == 0
    told = json.loads(capsys.readouterr().out)["768frames"]
    assert [part["group"] for part in told["asked"][0]["tables"]] == [None, "short", "medium", "long"]
    short = {row["row"]: row for row in told["asked"][0]["tables"][1]["rows"]}
    assert short["PruneVid stage 1"]["published"] == {"score": 67.0, "baseline": 76.7, "difference": -9.7}
    assert short["random"]["ours"]["answered"] == 1 and short["FastVID"]["ours"] is None


def test_v_star_is_scored_and_timed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "WARM_UP", 1)
    monkeypatch.setattr(timing, "ROUNDS", 2)
    words = ("--limit", "4", "--new_tokens", "2", "--out", str(tmp_path))
    assert call(root, "glimpseprune_vstar", ("vstar",), *words) == 0
    rows = rows_of(tmp_path / "accuracy", "vstar")
    assert rows["GlimpsePrune"]["ours"]["answered"] == 3 and rows["GlimpsePrune"]["ours"]["errors"] == 1
    assert rows["random"]["achieved"]["kept"] == pytest.approx(rows["uniform"]["achieved"]["kept"])
    assert rows["random"]["asked"]["layer_average"] == pytest.approx((3 + 5 * 0.111) / 8)  # its layer 2 of 8
    found, text = figures(tmp_path / "efficiency"), page(tmp_path / "efficiency")
    assert (found["images"], found["of"], found["device"]) == (3, 100, "cpu")
    assert "**PARTIAL**: 3 of 100 images were measured." in text and "not measured: relative_position/3: " in text
    assert "prefill ms: 423.3 unpruned, 306.9 GlimpsePrune" in text.partition("## Published, theirs")[2]
    assert "times of cpu say nothing about a GPU" in text
    stock, baseline, glimpse, random = found["rows"]
    assert stock["flops"] == baseline["flops"] and stock["cache_length"] == baseline["cache_length"]
    assert glimpse["flops"]["decoder"] < baseline["flops"]["decoder"] and glimpse["kept"] == random["kept"] < 1
    assert glimpse["cache_length"] == random["cache_length"] < baseline["cache_length"]
    assert baseline["ratio"]["decoder"] == {"median": 1.0, "low": 1.0, "high": 1.0, "n": 3}
    assert all(row["seconds"]["first_token"]["median"] > 0 for row in found["rows"])
    lines = [json.loads(line) for line in (tmp_path / "efficiency/vstar/answers.jsonl").read_text().splitlines()]
    assert {line["config"] for line in lines} == {"stock", "baseline", "GlimpsePrune", "random"}
    monkeypatch.setattr(PruneVidQwen25VL, "from_pretrained", None)
    again = ("--setting", "efficiency", "--limit", "3", *words[2:])
    assert call(root, "glimpseprune_vstar", ("vstar",), *again) == 0  # all three are measured: no model is needed
    assert figures(tmp_path / "efficiency") == found
    assert reproduce("glimpseprune_vstar", ["--setting", "speed"]) == 2
    assert "got 'speed'; the settings of glimpseprune_vstar are accuracy, efficiency" in capsys.readouterr().err


def test_inside_is_said_of_whole_runs_alone() -> None:
    published = {"score": 60.2, "baseline": 61.3, "difference": -1.1}
    own = {"partial": False, "difference": {"value": -0.01, "interval": [-0.02, 0.0], "pairs": 2700}}
    assert comparison._inside(published, own) is True
    assert comparison._inside({**published, "difference": -2.1}, own) is False
    assert comparison._inside(published, {**own, "partial": True}) is None
    assert comparison._inside(published, {**own, "difference": {"interval": None}}) is None
    assert comparison._inside(None, own) is None
