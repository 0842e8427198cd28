"""The curves and budgets of the accuracy benchmark: the config that reaches each share of the tokens."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from prunevid_qwen import get_recommended_config
from prunevid_qwen import reducer as registry
from prunevid_qwen.config import PruneVidConfig, option_classes
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.config.method_base import resolve_layer
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.budgets import NEAR, Calibration
from prunevid_qwen.evaluation.shapes.methods import (
    BUDGETS,
    AccuracyRun,
    Method,
    methods_called,
    standard_methods,
    uses_chance,
)
from prunevid_qwen.evaluation.shapes.videos import CALIBRATION_SEED, FIRST_SEED, ShapesVideo
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, says
from prunevid_qwen.tokens import TokenMap
from tests.accuracy_model import PLAIN, PLAIN_STAGE_1, asked, bundled, calibrated


@pytest.mark.parametrize("name", ["prunevid", "stage 1", "stage 1 + random", "pool"])
def test_a_fitted_config_does_what_was_counted(name: str) -> None:
    calibration = calibrated()
    for cell in calibration.cells(asked(name), (0.16, 0.10)):
        assert cell["counted"] == "planned"  # without the decoder, and right all the same
        assert cell["status"] == "ok" and abs(cell["achieved"] - cell["budget"]) <= NEAR * cell["budget"]
        config = PruneVidConfig.from_record(cell["config"])
        shares = [a["layer_average"] for q in calibration.questioners for a in q.ask(config)[:1]]
        assert cell["achieved"] == pytest.approx(sum(shares) / len(shares), abs=1e-6)


@pytest.mark.nightly
def test_no_setting_is_nearer_to_the_budget() -> None:
    calibration, method = calibrated(), asked("prunevid")
    settings = method.settings(PLAIN)
    shares = [calibration.planned(method.base_config(PLAIN).replace(**setting)) for setting in settings]
    assert shares == sorted(shares, reverse=True)  # what bisection rests on
    for cell in calibration.cells(method, (0.2, 0.12)):
        assert abs(cell["achieved"] - cell["budget"]) == pytest.approx(
            min(abs(s - cell["budget"]) for s in shares), abs=1e-6
        )


def test_a_merger_is_weighed_on_the_frames_that_its_config_looks_at() -> None:
    calibration = Calibration(bundled(), PLAIN, 1)
    whole, half = (PLAIN_STAGE_1.replace(max_frames=frames) for frames in (16, 8))
    shares = [calibration.planned(config) for config in (whole, half)]
    assert shares == [calibration.asked(config) for config in (whole, half)]
    assert shares[1] < shares[0]


def test_selection_goes_down_before_merging_does() -> None:
    settings = Method("m", {"cluster_ratio": 0.5}).settings(PLAIN)
    pairs = [(each["keep_ratio"], each["cluster_ratio"]) for each in settings]
    assert pairs[0] == (1.0, 1.0) and pairs[-1] == (0.2, 0.005)
    assert (1.0, 0.5) in pairs and (0.2, 0.5) in pairs
    assert all(keep == 1 for keep, merge in pairs if merge > 0.5)
    assert all(keep == 0.2 for keep, merge in pairs if merge < 0.5)
    assert pairs == sorted(pairs, reverse=True)


def test_standard_methods_select_before_they_cluster() -> None:
    for name in ("prunevid", "stage 1 + random"):
        pairs = [(each["keep_ratio"], each["cluster_ratio"]) for each in asked(name).settings(PLAIN)]
        assert pairs == [(k / 200, 1.0) for k in range(200, 40, -1)] + [(0.2, c / 200) for c in range(200, 0, -1)]
    published = [each["cluster_ratio"] for each in asked("prunevid published").settings(PLAIN)]
    assert published.count(0.5) == 161  # the paper's, along the whole path of selection
    assert {tuple(each) for each in asked("recommended").settings(PLAIN)} == {("cluster_ratio",)}
    assert {tuple(each) for each in asked("recommended_2026_11").settings(PLAIN)} == {("keep_ratio",)}
    chosen = asked("recommended").base_config(PLAIN).flat()
    differ = {name for name, value in get_recommended_config().flat().items() if chosen[name] != value}
    assert differ <= {"min_cluster_tokens", "max_frames", "max_pixels"}


def test_what_cannot_be_reached_says_why() -> None:
    calibration = calibrated()
    stage_2 = calibration.cells(asked("stage 2"), (0.10,))[0]
    layers = bundled().model.config.text_config.num_hidden_layers
    floor = (int(layers * 10 / 28) + 1) / layers
    assert stage_2["status"] == "unreachable" and stage_2["achieved"] >= floor
    assert percent(stage_2["achieved"], 1) in stage_2["why"]
    light = calibration.cells(asked("prunevid"), (0.9,))[0]
    assert light["status"] == "unreachable" and "at its lightest" in light["why"]
    sizes = {cell["budget"]: cell for cell in calibration.cells(asked("smaller frames"), (0.25, 0.16))}
    assert sizes[0.25]["status"] == "ok" and sizes[0.25]["config"]["max_pixels"] == 56 * 56
    assert sizes[0.16]["status"] == "unreachable" and percent(sizes[0.16]["achieved"], 1) in sizes[0.16]["why"]


def test_fewer_frames_take_the_nearest_even_number() -> None:
    cells = {cell["budget"]: cell for cell in calibrated().cells(asked("fewer frames"), BUDGETS)}
    defaults = PruneVidConfig().max_frames
    assert {b: c["config"].get("max_frames", defaults) for b, c in cells.items() if c["status"] == "ok"} == {
        0.50: 8,
        0.33: 6,
        0.25: 4,
    }


def test_a_method_without_levers_is_asked_as_it_stands() -> None:
    fixed = Method("fixed", {"keep_ratio": 0.3, "cluster_ratio": 0.7}, levers=())
    (cell,) = calibrated().cells(fixed, BUDGETS)
    assert (cell["budget"], cell["status"], cell["config"]["keep_ratio"], cell["config"]["cluster_ratio"]) == (
        None,
        "ok",
        0.3,
        0.7,
    )
    (unpruned,) = calibrated().cells(asked("unpruned"), BUDGETS)
    assert (unpruned["budget"], unpruned["achieved"]) == (None, 1.0)


@dataclass(frozen=True)
class HalfOptions:
    keep_ratio: float = 0.5


@dataclass(frozen=True)
class HalfTheAttention(HalfOptions):
    """Keeps the fewest tokens that together hold ``keep_ratio`` of the attention."""

    @property
    def needs(self) -> Needs:
        return Needs(AttentionQuery())

    def plan(self, seen: Evidence) -> TokenMap:
        assert seen.attention is not None
        share, order = seen.attention.softmax(0).sort(descending=True)
        count = int((share.cumsum(0) < self.keep_ratio).sum()) + 1
        return TokenMap.keep(order[: min(count, order.numel())], order.numel())


def test_a_selector_that_adapts_is_counted_while_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._REDUCERS, (2, "half"), HalfTheAttention)
    monkeypatch.setitem(option_classes._CLASSES["selector"], "half", HalfOptions)
    calibration = Calibration(bundled(), PLAIN, 1)
    (cell,) = calibration.cells(Method("half", {"selector": "half"}), (0.14,))
    assert cell["counted"] == "asked" and cell["status"] == "ok"
    config = PruneVidConfig.from_record(cell["config"])
    counts = [a["layer_average"] for a in calibration.questioners[0].ask(config)]
    assert cell["achieved"] == pytest.approx(sum(counts) / len(counts), abs=1e-6)
    assert "stage 1 + half" in [method.name for method in standard_methods()]


# ---- what is compared, and about what


def test_every_registered_method_is_compared() -> None:
    names = [method.name for method in standard_methods()]
    assert len(names) == len(set(names))
    alone = {"unpruned", "blank", "prunevid", "prunevid published", "stage 1", "stage 2", "recommended"}
    alone |= {"recommended_2026_11"}
    assert alone | {"fewer frames", "smaller frames"} <= set(names)
    for selector in set(registry.registered(2)) - {"prunevid", "oracle"}:  # an oracle is told what matters
        assert {f"stage 2 {selector}", f"stage 1 + {selector}"} <= set(names)
    assert set(registry.registered(1)) <= set(names)
    published = {name.removesuffix(" published") for name in names if name.endswith(" published")}
    assert published == {"prunevid", "fastv", "dart", "holitom", "vscan"}  # whose paper cuts at one layer of its own
    assert [name for name in names if name.endswith(" pair")] == ["holitom pair", "vscan pair"]
    chance = {m.name for m in standard_methods() if uses_chance(m.base_config(PLAIN))}
    assert chance == {"random", "stage 2 random", "stage 1 + random"}


def test_selectors_that_cut_once_cut_at_the_same_layer() -> None:
    alone = [method for method in standard_methods() if method.name.startswith("stage 2")]
    for depth in (8, 28):
        places = {}
        for method in alone:
            config = method.base_config(PLAIN).replace(keep_ratio=0.5)
            if says(config.selector, 2).trained:  # its weights were trained for one layer
                continue
            places[method.name] = tuple(step.at for step in compile_plan(config, depth).cuts)
        default = resolve_layer(None, depth)
        assert {at for at in places.values() if len(at) == 1} == {(default,)}
        assert {name for name, at in places.items() if len(at) > 1} == {
            "stage 2 pyramiddrop", "stage 2 sparsevlm", "stage 2 sparsevlm_plus",
        }  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize(
    "name", ["visionzip", *(pytest.param(each, marks=pytest.mark.nightly) for each in ("cdpruner", "stage 2 dart"))]
)
def test_a_method_is_weighed_whatever_evidence_it_asks_for(name: str) -> None:
    calibration = Calibration(bundled(), PLAIN, 1)
    settings = [asked(name).base_config(PLAIN).replace(**each) for each in asked(name).settings(PLAIN)]
    shares = [calibration.planned(settings[k]) for k in (0, 100, 150)]
    assert shares[0] > shares[1] > shares[2]
    assert shares[1] == pytest.approx(calibration.asked(settings[100]), abs=1e-6)


def test_methods_refuse_what_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="stage 1"):
        methods_called(["stage one"])
    with pytest.raises(ConfigError, match="mean 'visionzip'"):
        methods_called(["visonzip"])
    with pytest.raises(ConfigError, match="keep_ratio"):
        Method("m", {"keep_ration": 0.2})


@pytest.mark.parametrize("name", CONDITIONS)
def test_questions_are_half_and_half_over_many_types(name: str) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + 5):
        video = ShapesVideo(CONDITIONS[name], seed)
        questions = video.questions(12)
        words = [q for q in questions if not q.multiple_choice]
        assert questions == video.questions(12) and questions[: len(words)] == words
        assert abs(len(questions) - 2 * len(words)) <= 1 and len(questions) <= 12
        assert len({q.type for q in words}) >= min(len(words), 4)
        assert video.frames(2).shape == (2, CONDITIONS[name].height, CONDITIONS[name].width, 3)


def test_seeds_keep_out_of_training_and_calibration() -> None:
    def videos(count: int, first_seed: int = FIRST_SEED, conditions: tuple[str, ...] = ()) -> list[ShapesVideo]:
        return AccuracyRun((), conditions=conditions, videos=count, first_seed=first_seed).list_videos()

    assert [video.seed for video in videos(6)] == list(range(FIRST_SEED, FIRST_SEED + 6))
    assert [video.condition.name for video in videos(6)] == ["plain", "long", "clutter", "shake", "plain", "long"]
    with pytest.raises(ConfigError, match="training"):
        videos(1, FIRST_HELD_OUT_SEED - 1)
    with pytest.raises(ConfigError, match="calibration"):
        videos(2, CALIBRATION_SEED - 1)
    with pytest.raises(ConfigError, match="calibration"):
        videos(1, CALIBRATION_SEED + 47)
    videos(1, CALIBRATION_SEED - 1), videos(1, CALIBRATION_SEED + 48)
    fitted = [each.video.seed for each in Calibration(bundled(), PLAIN, 48).questioners]
    assert fitted == list(range(CALIBRATION_SEED, CALIBRATION_SEED + 48))
    with pytest.raises(ConfigError, match="planes"):
        videos(1, conditions=("planes",))
