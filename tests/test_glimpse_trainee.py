"""One forward of training: what the published recipe computes in one sequence, and what inference sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.stage2_select.glimpse import Glimpse
from prunevid_qwen.stage2_select.glimpse.facts import GlimpseFacts
from prunevid_qwen.training.glimpse.batches import TrainingBatch, make_batch
from prunevid_qwen.training.glimpse.losses import MaskCounts, bce, dice, localisation
from prunevid_qwen.training.glimpse.shapes_data import ShapesData
from prunevid_qwen.training.glimpse.trainee import GlimpseTraining, Trainee
from tests.tolerances import GRADIENTS, LOGITS, close

FACTS = GlimpseFacts(8, 128, 4, 96, (1, 2), 3, (3, 1), 16, 32, 4)
DATA = ShapesData(40, seed=5, conditions={"plain": 1})


@pytest.fixture(scope="module")
def bundled() -> PruneVidQwen25VL:
    return PruneVidQwen25VL("bundled", get_baseline_config(), device="cpu")


def trainee(dropout: float = 0.0) -> Trainee:
    torch.manual_seed(0)
    made = Trainee(FACTS, dropout)
    with torch.no_grad():
        made.learnable_embeddings.mul_(20)  # vectors of different layers differ
    return made


def batch(bundled: PruneVidQwen25VL, indices: list[int]) -> TrainingBatch:
    return make_batch([DATA[i] for i in indices], bundled.preprocessor, get_baseline_config(), seeds=indices)


def in_one_sequence(bundled: PruneVidQwen25VL, made: Trainee, given: TrainingBatch) -> tuple[Any, list[Any]]:
    """LM loss and attention logits [L, H, N] of one sample with the glimpse token inside one uncached sequence."""
    model, adapter = bundled.model, adapter_for(bundled.model)
    inputs = {**given.inputs}
    ids, answer = inputs.pop("input_ids"), given.answers[0]
    whole = torch.cat([ids, torch.zeros(1, 1, dtype=torch.long), answer[None]], dim=1)
    slot, vectors = ids.shape[1], made.vectors(given.seeds)
    inputs |= {
        "input_ids": whole,
        "attention_mask": torch.ones_like(whole),
        "mm_token_type_ids": F.pad(inputs["mm_token_type_ids"], (0, whole.shape[1] - slot)),
    }
    positions, _ = adapter.reference_positions(
        whole, **{n: inputs[n] for n in ("attention_mask", "video_grid_thw", "second_per_grid_ts")}
    )
    visual = (ids[0] == model.config.video_token_id).nonzero()[:, 0]
    logits, handles, at = [], [], F.one_hot(torch.tensor([slot]), whole.shape[1]).bool()[..., None]

    def enter(_m: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "inputs_embeds": torch.where(at, vectors[:, :1], kwargs["inputs_embeds"])}

    def add(layer: int) -> Any:
        return lambda _m, args: (args[0] + at * vectors[:, layer, None], *args[1:])

    def look(_m: Any, _a: Any, kwargs: Any, _o: Any) -> None:
        from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as library

        hidden, (cos, sin) = kwargs["hidden_states"], kwargs["position_embeddings"]
        if cos.ndim == 4:
            pytest.skip("the oracle is written for one rotary row a token (5.17 and newer)")
        q, k = (p(hidden).view(1, hidden.shape[1], -1, _m.head_dim).transpose(1, 2) for p in (_m.q_proj, _m.k_proj))
        q, k = library.apply_rotary_pos_emb(q, k, cos, sin)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        logits.append((q[0, :, slot][:, None] @ k[0][:, visual].transpose(1, 2))[:, 0] * _m.scaling)

    layers = model.model.language_model.layers
    try:
        handles.append(model.model.language_model.register_forward_pre_hook(enter, with_kwargs=True))
        handles += [layers[i].register_forward_pre_hook(add(i)) for i in range(1, 8)]
        handles += [layers[i].self_attn.register_forward_hook(look, with_kwargs=True) for i in FACTS.selected_layers]
        hidden = model.model(**inputs, position_ids=positions, use_cache=False).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    said = model.lm_head(hidden[0, slot : slot + answer.numel()])
    return F.cross_entropy(said, answer), logits


def test_losses_and_gradients_are_those_of_one_sequence(bundled: PruneVidQwen25VL) -> None:
    made = trainee()
    run = GlimpseTraining(bundled.model, made)
    for index in range(4):
        given = batch(bundled, [index])
        outcome = run(given)
        wanted, attention = in_one_sequence(bundled, made, given)
        close(outcome.lm, wanted, LOGITS)
        # through the LM loss into the vectors of all layers, and through the VIP into those up to the layers read
        weights = torch.linspace(-1, 1, outcome.logits[0].numel())
        ours = torch.autograd.grad(outcome.lm + (outcome.logits[0] * weights).sum(), list(made.parameters()))
        seen = torch.cat([part.T for part in attention], dim=1)
        read = run._prompt(given, *_places(bundled, given))[1][0]
        grid = given.inputs["video_grid_thw"][0] // torch.tensor([1, 2, 2])
        t, h, w = grid.tolist()
        cell = torch.arange(t * h * w)
        score = made.vip(seen, read.transpose(0, 1), cell % (h * w) // w, cell % w, [h * w] * t)
        close(outcome.logits[0], score, LOGITS)
        theirs = torch.autograd.grad(wanted + (score * weights).sum(), list(made.parameters()))
        for name, one, other in zip(dict(made.named_parameters()), ours, theirs, strict=True):
            close(one, other, GRADIENTS, msg=lambda m, n=name: f"{n}: {m}")
        assert ours[0].abs().max() > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in bundled.model.parameters())


def _places(bundled: PruneVidQwen25VL, given: TrainingBatch) -> tuple[Any, list[Any]]:
    adapter, inputs = adapter_for(bundled.model), given.inputs
    positions, _ = adapter.reference_positions(
        inputs["input_ids"], **{n: inputs[n] for n in ("attention_mask", "video_grid_thw", "second_per_grid_ts")}
    )
    return positions, [torch.arange(inputs["input_ids"].shape[1])]


def test_a_batch_is_the_mean_of_its_members(bundled: PruneVidQwen25VL) -> None:
    made = trainee(0.3).train()
    run = GlimpseTraining(bundled.model, made)
    together = run(batch(bundled, [0, 1, 2, 3]))
    alone = [run(batch(bundled, [i])) for i in range(4)]
    close(together.lm, torch.stack([each.lm for each in alone]).mean(), LOGITS)
    for one, other in zip(together.logits, alone, strict=True):
        close(one, other.logits[0], LOGITS)


def test_what_is_trained_is_what_inference_computes(bundled: PruneVidQwen25VL, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainee().eval()
    folder_of = made.to_predictor()
    given = batch(bundled, [0, 1, 2])
    outcome = GlimpseTraining(bundled.model, made)(given)
    seen: list[torch.Tensor] = []
    stock = Glimpse.logits
    monkeypatch.setattr(Glimpse, "logits", lambda self, e: seen.append(stock(self, e)) or seen[-1])
    monkeypatch.setattr("prunevid_qwen.stage2_select.glimpse.glimpse.load_predictor", lambda source: folder_of)
    config = PruneVidConfig(enable_stage1=False, selector="glimpse")
    with pruned(bundled.model, config) as trace, torch.no_grad():
        bundled.model.generate(**given.inputs, max_new_tokens=1)
    assert trace.layer == FACTS.reduce_layer
    for mine, theirs in zip(outcome.logits, seen, strict=True):
        close(mine, theirs, LOGITS)


def test_dropout_follows_the_sample_and_not_the_batch() -> None:
    made = trainee(0.5).train()
    several = made.vectors((3, 4, 3))
    assert torch.equal(several[0], several[2])
    assert not torch.equal(several[0], several[1])
    assert torch.equal(several[1], made.vectors((4,))[0])
    share = float((several[:2] == 0).float().mean())
    assert 0.4 < share < 0.6
    kept = several[0] != 0
    close(several[0][kept], 2 * made.eval().vectors((3,))[0][kept])


@pytest.mark.parametrize("n", [1, 7])
def test_losses_by_hand(n: int) -> None:
    numbers = torch.Generator().manual_seed(n)
    logits, mask = torch.randn(n, generator=numbers), torch.rand(n, generator=numbers) > 0.5
    p, g = 1 / (1 + np.exp(-logits.double().numpy())), mask.numpy()
    overlap, both = float((p * g).sum()), float(p.sum() + g.sum())
    close(float(dice(logits, mask)), 1 - (2 * overlap + 1e-6) / (both + 1e-6))
    wanted = -float(np.where(g, np.log(p), np.log(1 - p)).mean())
    close(float(bce(logits, mask)), wanted)
    pair = localisation([logits, logits], [mask, ~mask])
    close(pair[0], (dice(logits, mask) + dice(logits, ~mask)) / 2)
    close(pair[1], (bce(logits, mask) + bce(logits, ~mask)) / 2)


def test_counts_add_up() -> None:
    one = MaskCounts.of(torch.tensor([1.0, -1.0, 2.0, -3.0]), torch.tensor([True, True, False, False]))
    assert (one.hit, one.spare, one.missed, one.tokens) == (1, 1, 1, 4)
    both = one + MaskCounts(hit=3, tokens=4)
    figures = {"precision": 4 / 5, "recall": 4 / 5, "f1": 4 / 5, "iou": 4 / 6, "kept": 5 / 8}
    assert both.figures == pytest.approx(figures)
    assert set(MaskCounts().figures.values()) == {0.0}
