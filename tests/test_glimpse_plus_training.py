"""GlimpsePrune+ with trl: the published loss, only LoRA learns, a run goes on where it was, what it leaves behind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.loading import load_model
from prunevid_qwen.training.glimpse.base import load_base
from prunevid_qwen.training.glimpse_plus import train as training
from prunevid_qwen.training.glimpse_plus.entries import PromptReader, open_entries
from prunevid_qwen.training.glimpse_plus.lora import adapted_layers, lora_config
from prunevid_qwen.training.glimpse_plus.policy import box_config, score
from prunevid_qwen.training.glimpse_plus.rewards import exact_match
from prunevid_qwen.training.glimpse_plus.train import train_plus
from tests.glimpse_plus import plus
from tests.tolerances import CLOSE, GRADIENTS, LOGITS, close, spacing

for library in ("trl", "peft", "datasets"):
    pytest.importorskip(library, reason=f"{library} comes with the extra grpo: pip install 'prunevid_qwen[grpo]'")

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
SAME = CLOSE[torch.float32] * spacing(4.0, torch.float32)  # of log-probabilities
REWARDS = {"exact_match": exact_match}


def make_trainer(folder: Path, **changes: Any) -> Any:
    from prunevid_qwen.training.glimpse_plus.trainer import PrunedGRPOTrainer, grpo_config

    recipe = plus(**changes)
    model, preprocessor = load_base(recipe.glimpse_recipe("bundled"), "cpu")
    entries = open_entries("data", recipe.data, skip_bad=False, check=False)
    assert entries is not None
    return PrunedGRPOTrainer(
        reader=PromptReader(entries, preprocessor, None),
        pruning=box_config(0),
        draw_batch=4,
        model=model,
        reward_funcs=[exact_match],
        args=grpo_config(recipe, str(folder), 1, cpu=True),
        peft_config=lora_config(model, recipe),
    )


def shaken(trainer: Any) -> Any:
    """Move the adapters away from nothing, so that the model differs from its reference."""
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in trainer.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=numbers) * 0.05)
    return trainer


# ---- the loss


def test_advantages_and_loss_are_the_published_ones(tmp_path: Path) -> None:
    trainer = shaken(make_trainer(tmp_path, group=4, per_device_batch=8, beta=0.04))
    trainer.model.train()
    rows = [{**trainer.train_dataset[index]} for index in (0, 0, 0, 0, 5, 5, 5, 5)]
    given = iter([1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    trainer.reward_funcs = [lambda completions, **_: [next(given) for _ in completions]]
    torch.manual_seed(0)
    made = trainer._generate_and_score_completions(rows)

    rewards = torch.tensor([[1.0, 0, 0, 0.5], [1, 1, 1, 1]])
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten()
    close(made["advantages"], advantages)
    assert not made["advantages"][4:].any()  # a group that agrees teaches nothing

    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, made)
    names, weights = zip(*((n, w) for n, w in trainer.model.named_parameters() if w.requires_grad), strict=True)
    gradients = torch.autograd.grad(loss, weights)

    # the oracle: written out, answer by answer
    said = [ids[own.bool()] for ids, own in zip(made["completion_ids"], made["completion_mask"], strict=True)]
    prompts = trainer.reader.prompts([0] * 4 + [5] * 4)
    logps, _ = score(trainer.model, trainer.base, prompts, said, box_config(0), 1.0)
    with torch.no_grad(), trainer.model.disable_adapter():
        without, _ = score(trainer.model, trainer.base, prompts, said, box_config(0), 1.0)
    assert (logps - without).abs().max() > 1e-3
    wanted = torch.zeros(())
    for row, ids in enumerate(said):
        own, other = logps[row, : len(ids)], without[row, : len(ids)]
        ratio = torch.exp(own - own.detach())
        divergence = torch.exp(other - own) - (other - own) - 1
        wanted = wanted + (-ratio * advantages[row] + 0.04 * divergence).mean() / len(said)
    close(loss, wanted, LOGITS)
    for name, got, right in zip(names, gradients, torch.autograd.grad(wanted, weights), strict=True):
        close(got, right, GRADIENTS, msg=lambda text, n=name: f"{n}: {text}")


def test_the_trainer_sees_answers_as_they_were_drawn(tmp_path: Path) -> None:
    trainer = shaken(make_trainer(tmp_path, group=4, per_device_batch=8))
    trainer.model.train()
    torch.manual_seed(1)
    made = trainer._generate_and_score_completions([trainer.train_dataset[index] for index in (1, 1, 1, 1, 2, 2, 2, 2)])
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])  # trl shuffles what it keeps
    mixed = {name: value[order] if getattr(value, "ndim", 0) else value for name, value in made.items()}
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(trainer.model, mixed)
    assert trainer._metrics["train"]["policy_gap"] == [pytest.approx(0, abs=SAME)]
    mixed["records"] = 3 - mixed["records"]  # the other video's answers
    trainer._compute_loss(trainer.model, mixed)
    assert trainer._metrics["train"]["policy_gap"][1] > 0.1


def test_only_the_decoders_linears_are_adapted(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    layers = trainer.base.config.text_config.num_hidden_layers
    names = adapted_layers(load_base(plus().glimpse_recipe("bundled"), "cpu")[0])
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[-1] for name in names} == kinds and all("language_model.layers." in name for name in names)
    assert len(names) == 7 * layers
    learnt = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    assert len(learnt) == 2 * len(names) and all("lora_" in name and "visual" not in name for name in learnt)


# ---- whole runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The run that nothing interrupts, the predictor included."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train_plus(plus(), folder, REWARDS, check=False, device="cpu")


def lines(folder: Path, name: str = "curve.jsonl") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def test_a_run_leaves_a_model_its_predictor_and_its_figures(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, done = whole
    assert [line["step"] for line in lines(folder)] == [1, 2, 3]
    assert all(line["policy_gap"] < SAME and 0 <= line["reward"] <= 1 for line in lines(folder))
    held = lines(folder, "held_out.jsonl")
    assert [(line["when"], line["from"], line["record"]) for line in held] == [
        (when, source, record) for when in ("before", "after") for source in ("boxes", "whole") for record in (0, 1)
    ]
    assert done["grpo"]["adapted_layers"] == 56 and "trl" in done["grpo"]["versions"]
    assert done["glimpse"]["recipe"]["model_path"] == str(folder / "merged")
    assert (folder / "glimpse" / "model").is_dir()


def test_the_merged_model_is_the_base_plus_the_adapters(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = whole
    merged = load_model(str(folder / "merged"), "cpu", {"dtype": torch.float32}).state_dict()
    base = load_base(plus().glimpse_recipe("bundled"), "cpu")[0]
    from safetensors.torch import load_file

    adapters = load_file(folder / "grpo" / "checkpoint-3" / "adapter_model.safetensors")
    adapted = {f"{name}.weight" for name in adapted_layers(base)}
    for name, weight in base.state_dict().items():
        if name not in adapted:
            assert torch.equal(merged[name], weight), name
            continue
        down, up = (adapters[f"base_model.model.{name.removesuffix('.weight')}.lora_{part}.weight"] for part in "AB")
        assert up.any()
        close(merged[name], weight + 2 * up @ down)  # alpha / rank


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("step", [1, 3])
def test_a_killed_run_ends_as_if_it_had_not_been(whole: tuple[Path, dict[str, Any]], tmp_path: Path, step: int) -> None:
    def tell(what: str, done: int, total: int, figures: Any) -> None:
        if what == "reinforcement" and done == step and figures:
            raise Killed

    with pytest.raises(Killed):
        train_plus(plus(), tmp_path, REWARDS, check=False, device="cpu", with_glimpse=False, tell=tell)
    assert (tmp_path / "grpo" / "checkpoint-2").is_dir() == (step == 3)
    train_plus(plus(), tmp_path, REWARDS, check=False, device="cpu", with_glimpse=False)
    assert lines(tmp_path) == lines(whole[0])
    assert lines(tmp_path, "held_out.jsonl") == lines(whole[0], "held_out.jsonl")
    first, second = (load_model(str(f / "merged"), "cpu", {}).state_dict() for f in (tmp_path, whole[0]))
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_a_finished_run_is_finished(whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, done = whole
    monkeypatch.setattr(training, "_reinforce", lambda *_: pytest.fail("reinforced again"))
    again = train_plus(plus(save_every=7), folder, REWARDS, check=False, device="cpu")
    assert again["grpo"] == done["grpo"] and again["glimpse"]["steps"] == done["glimpse"]["steps"]


def test_another_recipe_or_a_reward_that_is_not_there_is_refused(whole: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"beta was 0.04 and is 0.1.*--restart"):
        train_plus(plus(beta=0.1), whole[0], REWARDS, check=False, device="cpu")
    judged = plus(data=[{**plus().data[0], "reward": "judge"}])
    with pytest.raises(ConfigError, match="scored by exact_match, judge, but there is only exact_match"):
        train_plus(judged, whole[0], REWARDS, check=False, device="cpu")
