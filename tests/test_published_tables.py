"""The published tables as data: their arithmetic against the papers' numbers, their files, and what is wrong in one."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.cli.reproduce import TABLES as TYPED
from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.published import estimate
from prunevid_qwen.evaluation.published.budget import Depth, budget_of, spending
from prunevid_qwen.evaluation.published.estimate import answer_cost, cost_of, describe, prefill_flops
from prunevid_qwen.evaluation.published.reproduce import Reproduction
from prunevid_qwen.evaluation.published.table import BASELINE_ROW, FOLDER, PublishedTable, read_table, table_names
from prunevid_qwen.evaluation.speed.flops import decoder_flops, vision_flops
from prunevid_qwen.evaluation.speed.model_shapes import shape_called
from tests.published_rows import BUDGETS, QWEN, TABLES, at_budget, row_of

# ---- budgets: what the papers' own numbers give


@pytest.mark.parametrize("share", BUDGETS)
def test_flashvids_own_constants_spend_its_budget(share: float) -> None:
    config = PruneVidConfig(selector="prunevid", keep_ratio=0.3, pruning_layer=19)  # after 20 layers
    solved = spending(config, share, QWEN)
    assert solved.cluster_ratio == pytest.approx(1.25 * share)
    assert budget_of(solved, QWEN)[0] == pytest.approx(share)


@pytest.mark.parametrize(("tokens", "share"), [(3200, 0.27), (13_447, 0.22)])
def test_flops_of_prunevid_by_its_own_formula(tokens: int, share: float) -> None:
    def count(visual: float) -> float:  # 4 n d^2 + 2 n^2 d + 2 n d m
        return 4 * visual * 3584**2 + 2 * visual**2 * 3584 + 2 * visual * 3584 * 18_944

    found = (11 * count(0.4525 * tokens) + 17 * count(0.181 * tokens)) / (28 * count(tokens))
    assert found == pytest.approx(share, abs=0.005)
    assert f"{share:.2f}x for {tokens:,}" in row_of(TABLES["prunevid_table6"].settings[0], "PruneVid").note


def test_layer_averages_of_prunevid() -> None:
    # PLLaVA: 32 layers, 40.5 % up to layer 10 and 16.2 % after it; Qwen2.5-VL: 18.1 / 0.4 = 45.25 % and 18.1 % of 28
    for entering, layers, average in ((0.405, 32, 0.245), (0.4525, 28, 0.288)):
        config = PruneVidConfig(cluster_ratio=entering, keep_ratio=0.4, pruning_layer=10)
        assert budget_of(config, Depth(layers))[0] == pytest.approx(average, abs=1e-3)


@pytest.mark.parametrize(("share", "kept"), [(0.25, 0.1923), (0.20, 0.1385), (0.15, 0.0846), (0.10, 0.0308)])
def test_fastv_keeps_less_than_the_budget_after_its_first_layers(share: float, kept: float) -> None:
    config = at_budget("FastV", share)
    assert config.keep_ratio == pytest.approx(kept, abs=5e-5)
    assert (config.selector_name, config.pruning_layer, config.enable_stage1) == ("fastv", 1, False)
    shallow = at_budget("FastV", 0.25, Depth(8))
    assert (shallow.pruning_layer, shallow.keep_ratio) == (0, pytest.approx((0.25 * 8 - 1) / 7))


@pytest.mark.parametrize("depth", [QWEN, Depth(36)], ids=str)
@pytest.mark.parametrize("share", BUDGETS)
def test_rows_of_a_budget_ask_for_it(share: float, depth: Depth) -> None:
    for method, exact in (("FastV", True), ("PruneVid", False), ("random", True), ("uniform", True)):
        assert budget_of(at_budget(method, share, depth), depth) == (pytest.approx(share), exact), method
    prunevid = at_budget("PruneVid", share, depth)
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
    assert budget_of(config, QWEN) == (pytest.approx(share, abs=1e-6), exact)


def test_a_budget_that_the_first_layers_spend_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        spending(at_budget("FastV", 0.10), 0.05, QWEN)
    assert all(each in str(error.value) for each in ("2 of 28", "7.1 %", "5.0 %"))
    with pytest.raises(ConfigError):
        at_budget("FastV", 0.10, Depth(8))


def test_the_glimpse_selects_after_two_thirds() -> None:
    assert [Depth(layers).glimpse_layer for layers in (28, 36, 64, 80)] == [18, 23, 42, 53]
    capped = row_of(TABLES["glimpseprune_vstar"].settings[0], "GlimpsePrune")
    assert capped.ours is not None
    share, exact = budget_of(capped.ours.config(QWEN), QWEN)
    assert not exact and share == pytest.approx((19 + 9 * 0.111) / 28)
    for setting in TABLES["glimpseprune_vstar"].settings:
        controls = [row.ours.config(QWEN) for row in setting.rows if row.ours and row.name in ("random", "uniform")]
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
    long = [each.protocol for table, setting in (("fastvid", 0), ("prunevid_table6", 1))
            for each in TABLES[table].settings[setting].sets]  # fmt: skip
    assert len(long) == 5
    for protocol in long:
        assert protocol.frame_pixels(768) * 384 <= 16_384 * 784
        assert protocol.replace(min_pixels=128 * 784).frame_pixels(768) * 384 > 16_384 * 784


# ---- the tables


def test_figures_stand_beside_the_baseline_of_their_own_table() -> None:
    for table in TABLES.values():
        for setting in (setting for setting in table.settings if not setting.timed):
            base = setting.rows[0].theirs
            assert setting.rows[0].name == BASELINE_ROW
            for row in setting.rows:
                for name in row.theirs:
                    assert setting.base(row)[name] == base[name] or "own baseline" in row.note, (table.name, row.name)


def test_published_losses() -> None:
    def difference(table: str, at: int, row: str, name: str) -> float:
        setting = TABLES[table].settings[at]
        published = setting.published(row_of(setting, row), name)
        assert published is not None
        return published["difference"]

    assert difference("prunevid_table6", 0, "PruneVid", "videomme") == -0.5
    assert difference("prunevid_table6", 1, "PruneVid stage 1", "videomme") == -8.0
    assert difference("fastvid", 0, "FastVID", "videomme") == -4.5
    assert difference("flashvid", 0, "FastV 10 %", "longvideobench") == -7.8
    assert difference("flashvid", 0, "FlashVID 20 %", "videomme") == -1.7
    assert difference("glimpseprune_vstar", 0, "GlimpsePrune", "vstar") == 1.1
    assert difference("holitom", 0, "HoliTom 10 %", "egoschema-full") == 0.8
    assert difference("vidcom2", 0, "VidCom2 25 %", "videomme/long") == 0.6
    assert difference("simplecluster", 0, "SimpleCluster 1 %", "mvbench") == -6.7
    assert difference("llava15", 0, "VisionZip 64", "mme") == -172
    assert difference("llava15_lmms", 0, "CDPruner 192", "mme-perception") == -59  # beside TransPrune's baseline


def test_flashvids_table_is_whole() -> None:
    setting = TABLES["flashvid"].settings[0]
    theirs = [row for row in setting.rows if row.theirs and row.name != BASELINE_ROW]
    assert len(theirs) == 4 * 4 and all(len(row.theirs) == 4 for row in theirs)
    assert all(row.kept.split()[0] == row.name.split()[-2] for row in theirs)  # "25 % on average", "FastV 25 %"
    for row in setting.rows[1:]:
        assert row.ours is None or row.ours.budget == int(row.name.split()[-2]) / 100, row.name
    ours = [row.name.split()[0] for row in setting.rows if row.ours is not None]
    assert sorted(set(ours)) == [
        "FastV",
        "FastVID",
        "FlashVID",
        "PruneVid",
        "VisionZip",
        "baseline",
        "random",
        "uniform",
    ]


@pytest.mark.parametrize("name", ["holitom", "simplecluster"])
def test_averages_that_the_papers_print(name: str) -> None:
    """The mean over the four data sets of a row, which both papers print as a share of the unpruned one."""
    printed = {
        "holitom": {"HoliTom 25 %": 100.7, "HoliTom 20 %": 100.7, "HoliTom 15 %": 99.7, "HoliTom 10 %": 99.1,
                    "FastVID 25 %": 98.1, "FastVID 10 %": 96.7, "VisionZip 25 %": 99.7, "VisionZip 10 %": 91.6,
                    "PruneVid 20 %": 97.8, "PruneVid 10 %": 96.9, "DyCoke 25 %": 92.6, "FastV": 96.7},
        "simplecluster": {"SimpleCluster 25 %": 100.3, "SimpleCluster 15 %": 99.1, "SimpleCluster 5 %": 95.3,
                          "SimpleCluster 1 %": 88.3, "FastVID 5 %": 92.7, "VisionZip 5 %": 82.0, "VisionZip 1 %": 74.4},
    }[name]  # fmt: skip
    setting = TABLES[name].settings[0]
    base = fmean(setting.rows[0].theirs.values())
    for row, share in printed.items():
        # they divide means that they rounded first
        assert 100 * fmean(row_of(setting, row).theirs.values()) / base == pytest.approx(share, abs=0.15), row


def test_overall_of_a_data_set_is_the_mean_of_its_groups() -> None:
    """Video-MME has as many short as medium and long videos."""
    for table in TABLES.values():
        for row in (row for setting in table.settings for row in setting.rows):
            groups = [score for name, score in row.theirs.items() if name.startswith("videomme/")]
            assert not groups or fmean(groups) == pytest.approx(row.theirs["videomme"], abs=0.11), (
                table.name,
                row.name,
            )


def test_tables_of_one_model_and_group_of_data_sets_agree_where_both_quote_a_method() -> None:
    quoted = [{row.name: row.theirs for row in TABLES[name].settings[0].rows} for name in ("holitom", "simplecluster")]
    same = [name for name in set(quoted[0]) & set(quoted[1]) if quoted[0][name]]
    assert len(same) >= 5 and all(quoted[0][name] == quoted[1][name] for name in same)


@pytest.mark.parametrize("name", ["llava15", "llava15_lmms", "llava15_rerun"])
def test_rows_through_lmms_eval_keep_the_tokens_in_their_name(name: str) -> None:
    for row in TABLES[name].settings[0].rows[1:]:
        method, tokens = row.name.split()
        assert row.ours is not None, row.name
        config = row.ours.config(QWEN)
        share = getattr(config.merger, "cluster_ratio", None) or getattr(config.selector, "keep_ratio", None)
        if share is None:
            assert method.startswith("SparseVLM") and config.selector.retained_tokens == int(tokens)  # type: ignore[union-attr]
        else:
            assert int(share * 576) == int(tokens), row.name
        assert row.ours.preset.removeprefix("merger.") == method.lower().replace("+", "_plus")


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_table_is_described_with_its_setting_its_figures_and_its_cost(table: PublishedTable) -> None:
    said = "\n".join(describe(table))
    assert "theirs" in said and table.paper in said
    for setting in table.settings:
        assert all(each in said for each in (setting.frames, setting.pixels, setting.prompt, *setting.unknown))
        assert f"About {cost_of(setting).hours:.1f} hours of one A100" in said
        for row in setting.rows if not setting.timed else ():
            for part, score in row.theirs.items():
                assert f"{part} {score:.1f}" in said


# ---- estimates


def test_the_estimate_counts_as_the_speed_benchmark_does() -> None:
    shape, tokens, text = shape_called("7b"), 4096, 100
    counted = decoder_flops(shape, [tokens + text] * 11 + [tokens // 4 + text] * 17)["total"]
    mean = (11 * prefill_flops(tokens + text) + 17 * prefill_flops(tokens // 4 + text)) / 28
    assert mean == pytest.approx(counted, rel=0.01)
    assert pytest.approx(vision_flops(shape, (16, 16, 16)) / 4096, rel=0.05) == estimate.VISION
    config = PruneVidConfig(enable_stage2=False, merger="uniform", cluster_ratio=1.0)
    _, seconds = answer_cost([config, config], 4096, text, answer=5)
    whole = decoder_flops(shape, [tokens + text] * 28)["total"]
    assert seconds == pytest.approx(whole / estimate.SPEED + 5 * estimate.DECODE + estimate.OVERHEAD, rel=0.01)


def test_several_cuts_cost_the_flops_of_each_layer() -> None:
    config = PruneVidConfig(enable_stage1=False, selector="pyramiddrop")
    counted = decoder_flops(shape_called("7b"), [4000] * 7 + [2000] * 7 + [1000] * 7 + [500] * 7)["total"]
    flops, seconds = answer_cost([config], 4000, text=0)
    assert flops == pytest.approx(counted, rel=0.01)
    assert seconds == pytest.approx(flops / estimate.SPEED + estimate.OVERHEAD)


def test_a_setting_takes_what_its_sets_and_rows_take() -> None:
    """V*: 191 images of 2048 tokens under seven configs of ours; timed, 100 images five times over under four."""
    accuracy, efficiency = TABLES["glimpseprune_vstar"].settings
    for setting, images, rows, rounds, tokens, answer in (
        (accuracy, 191, 7, 1, 2048, 3), (efficiency, 100, 4, 5, 4096, 64),
    ):  # fmt: skip
        configs = [row.ours.config(QWEN) if row.ours else get_baseline_config()
                   for row in setting.rows if row.ours or setting.timed]  # fmt: skip
        assert len(configs) == rows
        _, seconds = answer_cost(configs, tokens, answer=answer)
        encoding = images * tokens * estimate.VISION / estimate.SPEED
        assert 3600 * cost_of(setting).hours == pytest.approx(rounds * (encoding + images * rows * seconds))


# ---- files

FASTVID = (FOLDER / "fastvid.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("now", "then", "line", "said"),
    [
        ("theirs: {videomme: 67.3", "theirs: {videome: 67.3", "theirs: {videomme: 67.3", ["'videome'"]),
        ("videomme/long: 52.8", "videomme/longest: 52.8", "videomme/long: 52.8", ["'videomme/longest'", "videomme"]),
        ("theirs: {videomme: 59.3", "theirs: {videomme: many", "theirs: {videomme: 59.3", ["'many'", "a number"]),
        ("budget: 0.245", "budget: 24.5", "budget: 0.245", ["24.5", "(0, 1]"]),
        ("budget: 0.245", "budgets: 0.245", "budget: 0.245", ["'budgets'", "budget"]),
        ("min_cluster_tokens: 1", "min_clusters: 1", "min_cluster_tokens: 1", ["'min_clusters'", "min_cluster_tokens"]),
        ("preset: stage1_only", "preset: stage1", "preset: stage1_only", ["'stage1'", "stage1_only"]),
        (
            "sampler: fps",
            "sampler: fsp",
            "- name: videomme",
            ["'fsp'", "fps"],
        ),  # the line of its set
        ("- name: videomme\n", "- name: videomne\n", "- name: videomme", ["'videomne'", "videomme"]),
        ("- name: baseline\n", "- name: base\n", "- name: 768frames", ["base", "baseline"]),
        ("tokens: 13447", "token: 13447", "tokens: 13447", ["'token'", "tokens"]),
        ("model: Qwen/Qwen2.5-VL-7B-Instruct\n", "", "paper: ", ["'model'"]),
    ],
)
def test_an_error_in_a_table_names_the_line_and_what_is_expected(
    now: str, then: str, line: str, said: list[str], tmp_path: Path
) -> None:
    assert now in FASTVID and line in FASTVID
    path = tmp_path / "mine.yaml"
    path.write_text(FASTVID.replace(now, then, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_table(path)
    where, _, rest = str(error.value).partition(": ")
    file, _, number = where.rpartition(":")
    assert file == str(path) and all(each in rest for each in said)
    assert line in FASTVID.splitlines()[int(number) - 1]


LLAVA = (FOLDER / "llava15_lmms.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("now", "then", "line", "said"),
    [
        ("{name: gqa, tokens: 576}", "{name: gqa, tokens: 576, protocol: {preset: lmms}}", "name: gqa", ["protocol"]),
        ("{name: gqa, tokens: 576}", "{name: vstar, tokens: 576}", "name: vstar", ["protocol"]),
        ("name: gqa, tokens: 576", "name: vstar, tokens: 9, protocol: {prompt: letter}", "- name: lmms-eval", ["none"]),
        ("options: {cluster_ratio: 0.3334}", "budget: 0.3334", "- name: lmms-eval", ["'CDPruner 192'", "budget"]),
    ],
)  # fmt: skip
def test_an_error_in_a_table_of_lmms_evals_tasks_names_the_line(
    now: str, then: str, line: str, said: list[str], tmp_path: Path
) -> None:
    path, text = tmp_path / "mine.yaml", LLAVA.replace(now, then, 1)
    assert text != LLAVA
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_table(path)
    where, _, rest = str(error.value).partition(": ")
    assert all(each in rest for each in said) and line in text.splitlines()[int(where.rpartition(":")[2]) - 1]


def test_an_unknown_table_is_answered_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"fastvid", "holitom", "llava15", "llava15_lmms", "simplecluster", "vidcom2"} <= set(table_names())
    assert main(["reproduce", "flashvidd"]) == 2
    said = capsys.readouterr().err
    assert "flashvid" in said and "prunevid reproduce --help" in said
    assert tuple(sorted(TYPED)) == table_names(), "the command line's own list"


def test_a_table_is_read_from_anywhere(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "flashvid.yaml", tmp_path / "mine.yaml")
    mine = read_table(tmp_path / "mine.yaml")
    assert mine.name == "mine" and mine.settings == TABLES["flashvid"].settings
