"""GlimpsePrune+ without trl: the pruned policy, rewards, records, recipes, what can be typed and what is summed up."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen.cli import main
from prunevid_qwen.cli.groups import JudgeOptions
from prunevid_qwen.cli.train import rewards
from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.inputs.qwen.preprocessor import Preprocessor
from prunevid_qwen.loading import bundled_model
from prunevid_qwen.training.glimpse.training_folder import TrainingFolder
from prunevid_qwen.training.glimpse_plus import train as training
from prunevid_qwen.training.glimpse_plus.entries import PromptReader, open_entries
from prunevid_qwen.training.glimpse_plus.plus_summary import said, summarise
from prunevid_qwen.training.glimpse_plus.policy import Prompts, box_config, draw, score
from prunevid_qwen.training.glimpse_plus.recipe import GlimpsePlusRecipe
from prunevid_qwen.training.glimpse_plus.rewards import exact_match, judge_reward, normalised
from tests.glimpse_plus import PLUS, plus
from tests.models import RAGGED, make_inputs, tiny_model
from tests.stub_judge import StubJudge
from tests.tolerances import LOGITS, close

ROOT = Path(__file__).resolve().parent.parent
ENDS = list(range(10, 70))  # a fifth of the vocabulary: answers of different lengths


def ragged(share: float = 0.4) -> Prompts:
    """Prompts of different lengths, of which pruning leaves different numbers of tokens."""
    inputs, numbers = make_inputs(RAGGED), torch.Generator().manual_seed(3)
    counts = [sum(s[1] * s[2] * s[3] for s in sample if s[0] == "video") for sample in RAGGED]
    return Prompts(inputs, tuple((torch.rand(n, generator=numbers) < share).float() for n in counts))


def answers(prompts: Prompts, config: Any, model: Any = None, seed: int = 0, **how: Any) -> list[Any]:
    torch.manual_seed(seed)
    model = model or tiny_model()
    return draw(model, model, prompts, config, **{"longest": 6, "temperature": 1.3, "ends": ENDS, "pad": 0, **how})


# ---- the policy


@pytest.mark.parametrize("layer", [0, 2, 5])
@pytest.mark.parametrize("compress", [True, False])
def test_an_answer_is_as_likely_when_it_is_learnt_as_when_it_was_drawn(layer: int, compress: bool) -> None:
    config, model, lengths = box_config(layer).replace(enable_cache_compression=compress), tiny_model(), set()
    for seed in range(4):
        prompts = ragged()
        drawn = answers(prompts, config, seed=seed)
        with torch.no_grad():
            logps, entropies = score(model, model, prompts, [torch.tensor(d.ids) for d in drawn], config, 1.3)
        for row, each in enumerate(drawn):
            lengths.add(len(each.ids))
            close(logps[row, : len(each.ids)], torch.tensor(each.logps), LOGITS)
            assert not logps[row, len(each.ids) :].any() and not entropies[row, len(each.ids) :].any()
            assert all(token not in ENDS for token in each.ids[:-1])
        assert (entropies >= 0).all()
    assert len(lengths) > 2  # answers that end early stood beside longer ones


def test_what_lies_outside_the_boxes_is_not_seen() -> None:
    config, model, prompts = box_config(1), tiny_model(), ragged()
    said_ids = [torch.tensor([100, 101]), torch.tensor([102, 103])]
    with torch.no_grad():
        some, _ = score(model, model, prompts, said_ids, config, 1.0)
        whole = Prompts(prompts.inputs, tuple(torch.ones_like(marks) for marks in prompts.marks))
        every, _ = score(model, model, whole, said_ids, config, 1.0)
    assert (some - every).abs().min() > 1e-3


def test_the_models_own_way_of_answering_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2.5-VL's folder asks for top_k=1 and a repetition penalty: answers drawn so would be all alike."""
    model, prompts, config = tiny_model(), ragged(), box_config(1)
    plain = [answers(prompts, config, seed=seed, temperature=3.0) for seed in range(6)]
    for name, value in (("top_k", 1), ("top_p", 0.001), ("repetition_penalty", 1.5), ("temperature", 1e-6)):
        monkeypatch.setattr(model.generation_config, name, value)
    assert [answers(prompts, config, seed=seed, temperature=3.0) for seed in range(6)] == plain
    assert len({tuple(each[0].ids) for each in plain}) > 3


def test_gradients_pass_through_the_pruned_cache() -> None:
    """Of layer 0's values, which reach the answer through entries that stage 3 has gathered: against differences."""
    model, config = tiny_model(dtype=torch.float64), box_config(1)
    inputs = {n: v.double() if v.is_floating_point() else v for n, v in make_inputs(RAGGED).items()}
    prompts, said_ids = Prompts(inputs, ragged().marks), [torch.tensor([100, 101, 102]), torch.tensor([103, 104])]
    weight = model.model.language_model.layers[0].self_attn.v_proj.weight
    way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss() -> torch.Tensor:
        return score(model, model, prompts, said_ids, config, 1.0)[0].sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    values, small = [], 1e-3  # log-probabilities are float32 at the end
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * small * way
            values.append(float(loss()))
            weight -= sign * small * way
    assert float((gradient * way).sum()) == pytest.approx((values[0] - values[1]) / (2 * small), rel=2e-2)


# ---- records


@pytest.fixture(scope="module")
def reader() -> PromptReader:
    shapes = PLUS["data"][0]
    parts = [{**shapes, "reward": "judge"}, {**shapes, "only": "How many", "seed": 1}]
    entries = open_entries("data", parts, skip_bad=False)
    assert entries is not None
    return PromptReader(entries, Preprocessor.from_pretrained(bundled_model(), "qwen2_5_vl"), None)


def test_entries_are_counted_through(reader: PromptReader) -> None:
    entries, columns = reader.entries, reader.columns(range(len(reader.entries)))
    first = columns["reward"].count("judge")
    assert columns["reward"] == ["judge"] * first + ["exact_match"] * (len(entries) - first)
    assert all("last" in question for question in columns["question"][:first])
    assert set(columns["question"][first:]) == {"How many objects are there?"}
    assert entries.entry(first - 1) == 0 and entries.entry(first) == 1
    with pytest.raises(IndexError):
        entries[len(entries)]


def test_marks_are_the_boxes_of_the_record(reader: PromptReader) -> None:
    prompts = reader.prompts([0, 0, 3])
    assert torch.equal(prompts.marks[0], prompts.marks[1])
    wanted = torch.from_numpy(reader.entries[3].mask([(8, 4, 4)])).float()
    assert torch.equal(prompts.marks[2], wanted) and 0 < wanted.mean() < 0.5
    assert prompts.ids(0) == prompts.ids(1) and 0 not in prompts.ids(2)


@pytest.mark.parametrize(
    ("entry", "said_so"),
    [
        ({"samples": 3, "only": "elephant"}, "entry 1 of data has only: 'elephant'"),
        ({"samples": 3, "sample": 4}, "entry 1 of data: .* did you mean 'samples'.* data has"),
        ({"kind": "visual_cot", "path": "none.jsonl", "images": "."}, "entry 1 of data: "),
    ],
)
def test_a_bad_entry_is_named(entry: dict[str, Any], said_so: str) -> None:
    shapes = {"kind": "moving_shapes", "samples": 2}
    with pytest.raises((ConfigError, ValueError), match=said_so):
        open_entries("data", [shapes, {**shapes, **entry} if "kind" not in entry else entry], skip_bad=False)


# ---- rewards


def test_exact_match_forgives_form_alone() -> None:
    said_texts = ["Red", "red.", ' "red" ', "dark red", "", "red"]
    kinds = ["exact_match"] * 5 + ["judge"]
    assert exact_match(completions=said_texts, answer=["red"] * 6, reward=kinds, record=[0] * 6) == [
        1,
        1,
        1,
        0,
        0,
        None,
    ]
    assert normalised("(B) Two  Circles.") == normalised("b) two circles")


def test_a_judge_is_asked_once_about_equal_answers_and_its_failures_are_no_reward() -> None:
    asked = []

    def ask(question: str, reference: str, answer: str) -> float | None:
        asked.append((question, reference, answer))
        return None if answer == "?" else 0.5

    given = {"question": ["q"] * 4, "answer": ["r"] * 4, "reward": ["judge", "judge", "judge", "exact_match"]}
    assert judge_reward(ask, 2)(completions=["a", "a", "?", "a"], **given) == [0.5, 0.5, None, None]
    assert sorted(asked) == [("q", "r", "?"), ("q", "r", "a")]


def test_a_judge_that_never_answers_ends_the_run() -> None:
    reward = judge_reward(lambda *_: None)
    given = {"question": ["q"] * 40, "answer": ["r"] * 40, "reward": ["judge"] * 40}
    with pytest.raises(SetupError, match="marked none of the first 40"):
        reward(completions=[str(number) for number in range(40)], **given)


def test_the_command_lines_judge_is_an_endpoint() -> None:
    pytest.importorskip("openai", reason="the judge's client: pip install 'prunevid_qwen[judge]'")
    given = {"question": ["q", "q"], "answer": ["Red.", "Red."], "reward": ["judge", "judge"]}
    with StubJudge() as stub:
        judge = JudgeOptions(judge_base_url=stub.url, judge_model="stub").arguments()
        with rewards(judge) as by_name:
            assert by_name["judge"](completions=["red", "blue"], **given) == [1.0, 0.5]
            stub.failures = [400]  # one answer is refused, the next is not
            assert None in by_name["judge"](completions=["one", "two"], **given)
    with (
        pytest.raises(SetupError, match=r"'stub' at http.* does not answer .*the same command goes on"),
        rewards({**judge, "retries": 0}) as by_name,
    ):
        by_name["judge"](completions=["red", "red"], **given)


# ---- recipes and what can be typed


def test_the_committed_recipe_is_the_published_one() -> None:
    recipe = GlimpsePlusRecipe.from_yaml("glimpse_plus")
    assert recipe == GlimpsePlusRecipe() and recipe.needs_judge and len(recipe.data) == 23
    assert recipe.accumulation(4) == 8  # four GPUs: a group at a time, eight forwards
    assert recipe.glimpse_recipe("merged").effective_batch == 16


def test_the_tiny_recipe_is_complete() -> None:
    recipe = GlimpsePlusRecipe.from_yaml("glimpse_plus_tiny")
    assert not recipe.needs_judge and recipe.beta == 0.04 and recipe.temperature == 1.0
    assert all(entry["held_out"] for entry in recipe.eval_data)
    assert GlimpsePlusRecipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("changes", "said_so"),
    [
        ({"group": 1}, "group"),
        ({"lora_rnk": 8}, "did you mean 'lora_rank'"),
        ({"data": []}, "at least one entry"),
        ({"data": [{"kind": "moving_shapes", "reward": "exact"}]}, "reward of an entry"),
        ({"per_device_batch": 3}, "no multiple of per_device_batch=3"),
        ({"glimpse": {"precision": "bf16"}}, "leave precision and model_path out"),
        ({"glimpse": {"wdth": 3}}, "glimpse: got .wdth.;.* a recipe has"),
        ({"temperature": 0}, "temperature"),
        ({"max_keep_ratio": 1.5}, "max_keep_ratio"),
    ],
)
def test_a_bad_recipe_is_refused(changes: dict[str, Any], said_so: str) -> None:
    with pytest.raises(ConfigError, match=said_so):
        plus(**changes)


def test_processes_that_cannot_share_a_step_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 processes cannot share 4 answers"):
        plus().accumulation(3)


def test_options_go_over_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text(plus().to_yaml())
    words = ["train", "glimpse-plus", "--recipe", str(tmp_path / "own.yaml"), "--dry_run", "--json", "--set"]
    assert main([*words, "steps=7", "--set", "learning_rate=1e-5"]) == 0
    assert GlimpsePlusRecipe.from_dict(json.loads(capsys.readouterr().out)) == plus(steps=7, learning_rate=1e-5)
    assert main([*words, "steps"]) == 2 and "OPTION=VALUE" in capsys.readouterr().err


def test_a_judge_is_asked_for_before_anything_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "glimpse-plus"]) == 2
    assert "--judge_base_url and --judge_model" in capsys.readouterr().err
    assert main(["train", "glimpse-plus", "--judge_base_url", "http://localhost:8000/v1"]) == 2
    assert "needs --judge_model" in capsys.readouterr().err
    assert JudgeOptions(judge_base_url="http://here/v1", judge_model="m").arguments()["model"] == "m"


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"prunevid_qwen\[grpo\]"):
        training.train_plus(plus(), tmp_path / "run", {"exact_match": exact_match})
    assert not (tmp_path / "run").exists()


def test_the_summary_pairs_records_and_counts_errors() -> None:
    curve = [{"step": n, "reward": n / 20, "policy_gap": 1e-6 * n, "kl": 0.0, "entropy": 0.1} for n in range(20)]
    held = [
        {"when": when, "from": "boxes", "entry": 0, "record": n, "reward": worth + 0.1 * n, "rewards": []}
        for when, worth in (("before", 0.1), ("after", 0.4))
        for n in range(5)
    ]
    summary = summarise(curve, held, 32)
    ends = summary["training"]
    assert ends["lines"] == 4 and ends["rise"] == pytest.approx(0.8)
    one = torch.tensor([0.0, 1, 2, 3], dtype=torch.float64).div(20).std() / 2
    assert ends["rise_in_errors"] == pytest.approx(0.8 / (float(one) * 2**0.5), rel=1e-3)
    found = summary["held_out"][0]
    assert found["difference"] == {"mean": pytest.approx(0.3), "interval": pytest.approx([0.3, 0.3])}
    assert any("+0.300" in sentence for sentence in said(summary))


def test_the_committed_summary_follows_from_the_committed_lines() -> None:
    folder = TrainingFolder(ROOT / "eval" / "results" / "glimpse_plus")
    held = json.loads((folder.path / "summary.json").read_text())
    made = summarise(folder.lines("curve.jsonl"), folder.lines("held_out.jsonl"), 32)
    assert {name: held[name] for name in made} == made and made["training"]["rise_in_errors"] > 3
    assert made["held_out"][0]["from"] == "boxes" and made["held_out"][0]["difference"]["interval"][0] > 0.3
    recipe = GlimpsePlusRecipe.from_yaml("glimpse_plus_tiny")
    assert held["grpo"]["recipe"] == recipe.to_dict()
