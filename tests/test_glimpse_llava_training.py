"""Training a glimpse predictor for a LLaVA: what one forward computes, boxes in padded squares, and runs that go on."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from prunevid_qwen import PrunedVLM, PruneVidConfig
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.cli.app import main
from prunevid_qwen.config import get_baseline_config
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.inputs.frontends import StockFrontend
from prunevid_qwen.stage2_select.glimpse import Glimpse, GlimpseVIP
from prunevid_qwen.training.glimpse import train as training
from prunevid_qwen.training.glimpse.base import facts_for, load_base
from prunevid_qwen.training.glimpse.batches import TrainingBatch, make_batch
from prunevid_qwen.training.glimpse.reading import Reader
from prunevid_qwen.training.glimpse.recipe import GlimpseRecipe
from prunevid_qwen.training.glimpse.records import BoxRecord
from prunevid_qwen.training.glimpse.train import train
from prunevid_qwen.training.glimpse.trainee import GlimpseTraining, Trainee
from tests.glimpse_training import Killed, checkpoint, curves, killed_in_step
from tests.llava import save_llava
from tests.stock_folders import save_folder
from tests.tolerances import GRADIENTS, LOGITS, close

SIZES = ((80, 60), (50, 90), (64, 64), (120, 40))  # width and height of pictures
ANSWERS = ("red", "blue", "red circle", "blue")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA of random weights, pictures of unlike shapes with a box each, and their records."""
    folder = tmp_path_factory.mktemp("llava_training")
    save_llava(folder / "model")
    (folder / "pictures").mkdir()
    lines = []
    for number, ((width, height), answer) in enumerate(zip(SIZES, ANSWERS, strict=True)):
        box = (width // 4, height // 4, width // 2, height // 2)
        image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8))
        ImageDraw.Draw(image).rectangle(box, fill="red")
        image.save(folder / "pictures" / f"{number}.png")
        lines.append({"question": "what color is the circle ?", "answer": answer, "image": f"{number}.png",
                      "width": width, "height": height, "bboxs": [box]})  # fmt: skip
    (folder / "set.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def recipe(data: Path, **changes: Any) -> GlimpseRecipe:
    about = {"kind": "visual_cot", "path": str(data / "set.jsonl"), "images": str(data / "pictures")}
    small: dict[str, Any] = {
        "model_path": str(data / "model"), "dtype": "float32", "precision": "no", "width": 16, "condition": 16,
        "vip_heads": 4, "data": about, "eval_data": {**about, "samples": 2}, "steps": 5, "effective_batch": 2,
        "per_device_batch": 1, "warmup_ratio": 0.0, "learning_rate": 1e-3, "log_every": 3, "save_every": 2,
        "eval_every": 3, "eval_samples": 1, "max_pixels": None,
    }  # fmt: skip
    return GlimpseRecipe.from_dict({**small, **changes})


@pytest.fixture(scope="module")
def base(data: Path) -> tuple[Any, Any]:
    return load_base(recipe(data), "cpu")


@pytest.fixture
def loaded_once(base: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "load_base", lambda recipe, device: base)


def batch(data: Path, base: tuple[Any, Any], indices: list[int]) -> TrainingBatch:
    records = training.open_recipe(recipe(data))["data"]
    return make_batch([records[i] for i in indices], base[1], PruneVidConfig(), seeds=indices)


def trainee(data: Path, base: tuple[Any, Any], dropout: float = 0.0) -> Trainee:
    facts = replace(facts_for(base[0], recipe(data)), selected_layers=(1, 2))
    torch.manual_seed(0)
    made = Trainee(facts, dropout, base[0].config.text_config.rms_norm_eps)
    with torch.no_grad():
        made.learnable_embeddings.mul_(20)  # vectors of different layers differ
    return made


# ---- what is trained


def test_the_predictor_of_a_llava_is_the_published_one(data: Path, base: tuple[Any, Any]) -> None:
    facts = facts_for(base[0], recipe(data))
    assert not facts.use_attention_logits and facts.pad_to_square
    assert facts.selected_layers == (3,) and facts.reduce_layer == 3
    blocks = adapter_for(base[0]).vision_blocks
    assert max(facts.selected_visual_layers) == len(blocks) - 2, "the last block is none that the projector reads"


@pytest.mark.parametrize(("layers", "wanted"), [(32, 21), (40, 26)])
def test_the_published_layers_and_blocks(layers: int, wanted: int) -> None:
    from types import SimpleNamespace

    from prunevid_qwen.training.glimpse.base import _published_taps

    assert -(-2 * layers // 3) - 1 == wanted
    model = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace()))
    assert _published_taps(model, 24, True) == (22, 16, 10, 4)


def in_one_sequence(
    base: tuple[Any, Any], made: Trainee, given: TrainingBatch
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """LM loss and what the glimpse token attends to, [H, N] a layer, with it inside one uncached sequence."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    model, answer, vectors = base[0], given.answers[0], made.vectors(given.seeds)
    ids = given.inputs["input_ids"]
    slot = ids.shape[1]
    whole = torch.cat([ids, torch.full((1, 1), 20), answer[None]], dim=1)
    visual = (ids[0] == model.config.image_token_id).nonzero()[:, 0]
    at = (torch.arange(whole.shape[1]) == slot)[None, :, None]
    rows: list[torch.Tensor] = []
    handles: list[Any] = []

    def enter(_m: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "inputs_embeds": torch.where(at, vectors[:, :1], kwargs["inputs_embeds"])}

    def add(layer: int) -> Any:
        return lambda _m, args: (args[0] + at * vectors[:, layer, None], *args[1:])

    def look(module: Any, _args: Any, kwargs: Any, _out: Any) -> None:
        hidden = kwargs["hidden_states"]
        q, k = (
            p(hidden).view(1, hidden.shape[1], -1, module.head_dim).transpose(1, 2)
            for p in (module.q_proj, module.k_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, *kwargs["position_embeddings"])
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        row = (q[0, :, slot : slot + 1] @ k[0, :, : slot + 1].transpose(1, 2))[:, 0] * module.scaling
        rows.append(row.log_softmax(-1)[:, visual])

    decoder = model.model.language_model
    try:
        handles.append(decoder.register_forward_pre_hook(enter, with_kwargs=True))
        handles += [decoder.layers[i].register_forward_pre_hook(add(i)) for i in range(1, made.facts.layers)]
        handles += [
            decoder.layers[i].self_attn.register_forward_hook(look, with_kwargs=True)
            for i in made.facts.selected_layers
        ]
        pixels = given.inputs["pixel_values"]
        hidden = model.model(
            input_ids=whole, attention_mask=torch.ones_like(whole), pixel_values=pixels, use_cache=False
        ).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    return F.cross_entropy(model.lm_head(hidden[0, slot : slot + answer.numel()]), answer), rows


def test_losses_and_gradients_are_those_of_one_sequence(data: Path, base: tuple[Any, Any]) -> None:
    made = trainee(data, base)
    run = GlimpseTraining(base[0], made)
    for index in range(2):
        given = batch(data, base, [index])
        outcome = run(given)
        wanted, attention = in_one_sequence(base, made, given)
        close(outcome.lm, wanted, LOGITS)
        with torch.no_grad():
            tower = base[0].model.vision_tower(given.inputs["pixel_values"], output_hidden_states=True).hidden_states
        taps = torch.stack([tower[block + 1][0, 1:] for block in made.facts.selected_visual_layers])
        cell = torch.arange(16)
        score = made.vip(torch.cat([part.T for part in attention], 1), taps, cell // 4, cell % 4, [16])
        close(outcome.logits[0], score, LOGITS)
        weights = torch.linspace(-1, 1, 16)
        parameters = dict(made.named_parameters())
        ours, theirs = (
            torch.autograd.grad(lm + (logits * weights).sum(), list(parameters.values()))
            for lm, logits in ((outcome.lm, outcome.logits[0]), (wanted, score))
        )
        for name, one, other in zip(parameters, ours, theirs, strict=True):
            close(one, other, GRADIENTS, msg=lambda m, n=name: f"{n}: {m}")
        assert ours[0].abs().max() > 0


def test_a_batch_is_the_mean_of_its_members(data: Path, base: tuple[Any, Any]) -> None:
    made = trainee(data, base, 0.3).train()
    run = GlimpseTraining(base[0], made)
    together, alone = run(batch(data, base, [0, 1, 2])), [run(batch(data, base, [i])) for i in range(3)]
    close(together.lm, torch.stack([each.lm for each in alone]).mean(), LOGITS)
    for one, other in zip(together.logits, alone, strict=True):
        close(one, other.logits[0], LOGITS)


def test_what_is_trained_is_what_inference_computes(
    data: Path, base: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainee(data, base).eval()
    outcome, seen = GlimpseTraining(base[0], made)(batch(data, base, [0, 1])), list[torch.Tensor]()
    stock = Glimpse.logits
    monkeypatch.setattr(Glimpse, "logits", lambda self, e: seen.append(stock(self, e)) or seen[-1])
    monkeypatch.setattr("prunevid_qwen.stage2_select.glimpse.glimpse.load_predictor", lambda _: made.to_predictor())
    model = PrunedVLM(base[0], PruneVidConfig(enable_stage1=False, selector="glimpse"), processor=base[1].processor)
    for number in range(2):  # the whole way from a file, which is padded as in training
        model.generate(
            None, "what color is the circle ?", images=str(data / f"pictures/{number}.png"), max_new_tokens=1
        )
    for mine, theirs in zip(outcome.logits, seen, strict=True):
        close(mine, theirs, LOGITS)


# ---- what it is trained on


def test_boxes_are_found_in_the_padded_square(data: Path, base: tuple[Any, Any]) -> None:
    """The red rectangle of each picture, as the tower sees it, lies in the tokens of the target."""
    given = batch(data, base, [0, 1, 2, 3])
    for (width, height), mask, answer in zip(SIZES, given.masks, given.answers, strict=True):
        side = max(width, height)
        x, y = (side - width) // 2 + 0.375 * width, (side - height) // 2 + 0.375 * height  # the box's middle
        assert bool(mask.view(4, 4)[int(y * 4 / side), int(x * 4 / side)])
        left, right = (side - width) // 2 + width // 4, (side - width) // 2 + width // 2
        top, bottom = (side - height) // 2 + height // 4, (side - height) // 2 + height // 2
        wanted = torch.zeros(4, 4, dtype=torch.bool)
        wanted[top * 4 // side : bottom * 4 // side + 1, left * 4 // side : right * 4 // side + 1] = True
        assert torch.equal(mask.view(4, 4), wanted)
        assert int(answer[-1]) == base[1].tokenizer.eos_token_id
    assert len({tuple(mask.tolist()) for mask in given.masks}) > 1
    prompt = base[1].tokenizer.decode(given.inputs["input_ids"][0])
    assert prompt.endswith("ASSISTANT:")


def test_processes_that_read_ahead_read_the_same(data: Path, base: tuple[Any, Any]) -> None:
    """They are handed the reader with its processor, pickled."""
    reader = Reader(recipe(data), training.open_recipe(recipe(data))["data"], base[1])
    mine, theirs = reader[1, 0], pickle.loads(pickle.dumps(reader))[1, 0]
    assert mine.inputs.keys() == theirs.inputs.keys()
    assert all(torch.equal(tensor, theirs.inputs[name]) for name, tensor in mine.inputs.items())
    assert torch.equal(mine.masks[0], theirs.masks[0]) and torch.equal(mine.answers[0], theirs.answers[0])


def test_drawn_videos_and_pixel_limits_are_refused(data: Path, base: tuple[Any, Any]) -> None:
    with pytest.raises(ConfigError, match="max_pixels"):
        load_base(recipe(data, max_pixels=10**6), "cpu")
    drawn = BoxRecord("drawn", object(), "what ?", "red")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="pictures"):
        make_batch([drawn], base[1], get_baseline_config())


def test_tiles_and_other_grids_are_refused(data: Path, base: tuple[Any, Any], tmp_path: Path) -> None:
    folder = save_folder(tmp_path, "llava_next", weights=False)
    reader = StockFrontend.from_pretrained(str(folder), "llava_next")
    reader.pad_to_square = True
    records = training.open_recipe(recipe(data))["data"]
    with pytest.raises(UnsupportedError, match="llava_next"):
        make_batch([records[0]], reader, PruneVidConfig())
    given = replace(batch(data, base, [0]), masks=(torch.zeros(9, dtype=torch.bool),))
    with pytest.raises(UnsupportedError, match="16 visual tokens"):
        GlimpseTraining(base[0], trainee(data, base))(given)


# ---- runs


@pytest.mark.usefixtures("loaded_once")
def test_a_killed_run_ends_as_if_it_had_not_been(
    data: Path, base: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bytes of its predictor; and the published form of what was trained is the same predictor."""
    monkeypatch.setattr(base[0].config.text_config, "rms_norm_eps", 1e-2)  # so large that another one would show
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(recipe(data), whole)
    with pytest.raises(Killed):
        killed_in_step(recipe(data), cut, 3)
    assert checkpoint(cut)["step"] == 2
    train(recipe(data), cut)
    assert curves(cut) == curves(whole)
    for name, tensor in checkpoint(whole)["trainee"].items():
        assert torch.equal(checkpoint(cut)["trainee"][name], tensor), name
    for name in ("config.json", "model.safetensors"):
        assert (cut / "model" / name).read_bytes() == (whole / "model" / name).read_bytes()
    predictor = GlimpseVIP.from_pretrained(whole / "model")
    assert predictor.facts.pad_to_square and not predictor.facts.use_attention_logits
    assert main(["convert-glimpse", str(cut), str(tmp_path / "gp"), "--to_published"]) == 0
    published = GlimpseVIP.from_pretrained(tmp_path / "gp")
    assert published.facts == predictor.facts
    for name, tensor in predictor.state_dict().items():
        close(published.state_dict()[name], tensor)
    assert main(["convert-glimpse", str(data), str(tmp_path / "none"), "--to_published"]) == 2
