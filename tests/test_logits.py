"""`logits_to_keep` and labels, which count places in the sequence as it came. The oracle: all logits that are left."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import modeling_utils

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, SetupError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from tests.masking import masked_logits, text_inputs
from tests.models import MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.patience import PATIENCE
from tests.test_pruning_equals_masking import TINY
from tests.tolerances import GRADIENTS, LOGITS, close

CONFIG = PruneVidConfig(**TINY)
STAGE2 = CONFIG.replace(enable_stage1=False)
STAGE1 = CONFIG.replace(enable_stage2=False, enable_cache_compression=False)
KEEP = PruneVidConfig(tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, pruning_layer=1, position_scheme="hf")

by_row = pytest.mark.skipif(
    not hasattr(modeling_utils, "slice_logits_to_keep"), reason="this transformers knows one list of positions for all"
)


def logits(config: PruneVidConfig, case: Any, **options: Any) -> tuple[torch.Tensor, Any]:
    with torch.no_grad(), pruned(tiny_model(), config) as trace:
        return tiny_model()(**make_inputs(case), **options).logits, trace


def left(case: Any, trace: Any) -> list[list[int]]:
    """For each row the positions, counted in the padded prompt, of what is left; -1 for what stands for several."""
    inputs, out = make_inputs(case), []
    for b, sample in enumerate(trace.samples):
        at = inputs["attention_mask"][b].nonzero()[:, 0].tolist()
        visual = [i for i in at if inputs["mm_token_type_ids"][b, i]]
        target = list(range(len(visual))) if sample.merged is None else sample.merged.target.tolist()
        alone = [target.count(target[place]) == 1 for place in range(len(visual))]
        kept = trace.kept[b].tolist()
        row: list[int] = []
        for i in at:
            if i not in visual:
                row.append(i)
            for block in sample.blocks:
                if i == visual[block.start]:
                    mine = [place for place in kept if block.start <= place < block.stop]
                    row += [visual[place] if alone[place] else -1 for place in mine]
        out.append(row)
    return out


@pytest.mark.parametrize("config", [CONFIG, STAGE1, STAGE2], ids=["all", "stage1", "stage2"])
def test_positions_are_those_of_the_prompt(config: PruneVidConfig) -> None:
    whole, trace = logits(config, ONE_VIDEO)
    (row,) = left(ONE_VIDEO, trace)
    asked = [i for i in row if i >= 0]
    assert len(row) == whole.shape[1] < make_inputs(ONE_VIDEO)["input_ids"].shape[1]
    got, _ = logits(config, ONE_VIDEO, logits_to_keep=torch.tensor(asked))
    close(got, whole[:, [row.index(i) for i in asked]], LOGITS)


def test_the_last_positions_of_a_batch() -> None:
    length = make_inputs(RAGGED)["input_ids"].shape[1]
    whole, _ = logits(CONFIG, RAGGED)
    for asked in (torch.arange(length - 6, length), torch.arange(-6, 0), 6):
        close(logits(CONFIG, RAGGED, logits_to_keep=asked)[0], whole[:, -6:], LOGITS)


@pytest.mark.parametrize("of", [
    list, tuple, np.array, lambda at: np.int64(at[0]), lambda at: torch.tensor(at[0]), lambda at: range(at[0], at[-1]),
    lambda at: slice(at[0], at[-1], 2), lambda at: -at[0], lambda at: torch.tensor(at, dtype=torch.int32),
    lambda at: [place in at for place in range(make_inputs(ONE_VIDEO)["input_ids"].shape[1])],
], ids=["list", "tuple", "array", "number of numpy", "tensor of one", "range", "slice",
       "negative", "int32", "bools"])  # fmt: skip
def test_positions_however_they_are_written(of: Any) -> None:
    """The library indexes with whatever it is given: a number below 0 is where the logits begin."""
    length, whole = make_inputs(ONE_VIDEO)["input_ids"].shape[1], logits(CONFIG, ONE_VIDEO)[0]
    keep = of([length - 5, length - 3, length - 2])
    stands = torch.zeros(1, length, whole.shape[-1])
    stands[:, -5:] = whole[:, -5:]
    wanted = stands[:, slice(-keep, None) if isinstance(keep, int) else keep]
    close(logits(CONFIG, ONE_VIDEO, logits_to_keep=keep)[0], wanted, LOGITS)
    with pytest.raises(UnsupportedError, match="of row 0"):
        logits(CONFIG, ONE_VIDEO, logits_to_keep=of([10, 20, 23]))
    with torch.no_grad():
        stock = tiny_model()(**make_inputs(ONE_VIDEO), logits_to_keep=keep).logits
    assert torch.equal(logits(KEEP, ONE_VIDEO, logits_to_keep=keep)[0], stock)


@by_row
@pytest.mark.parametrize("case", [RAGGED, MIXED], ids=["ragged", "mixed"])
def test_positions_of_each_row(case: Any) -> None:
    whole, trace = logits(CONFIG, case)
    rows = [[i for i in row if i >= 0] for row in left(case, trace)]
    at = [[whole.shape[1] - len(row) + row.index(i) for i in row if i >= 0] for row in left(case, trace)]
    few = min(map(len, rows))
    asked = torch.tensor([row[:few] for row in rows])
    wanted = torch.stack([whole[b, places[:few]] for b, places in enumerate(at)])
    close(logits(CONFIG, case, logits_to_keep=asked)[0], wanted, LOGITS)
    chosen = torch.zeros_like(make_inputs(case)["input_ids"], dtype=torch.bool)
    for b, row in enumerate(rows):
        chosen[b, row] = True
    close(logits(CONFIG, case, logits_to_keep=chosen)[0], torch.cat([whole[b, p] for b, p in enumerate(at)]), LOGITS)


@pytest.mark.parametrize("config", [CONFIG, STAGE1, STAGE2], ids=["all", "stage1", "stage2"])
def test_a_position_of_which_no_token_is_left(config: PruneVidConfig) -> None:
    inputs = make_inputs(ONE_VIDEO)
    _, trace = logits(config, ONE_VIDEO)
    gone = sorted(set(range(inputs["input_ids"].shape[1])) - set(left(ONE_VIDEO, trace)[0]))
    for position in (gone[0], gone[-1]):
        with pytest.raises(UnsupportedError, match=f"position {position} of row 0"):
            logits(config, ONE_VIDEO, logits_to_keep=torch.tensor([position]))
    with pytest.raises(UnsupportedError, match="padding"):
        logits(config, RAGGED, logits_to_keep=torch.tensor([0, -1]))
    with pytest.raises(IndexError):  # the library's own
        logits(config, ONE_VIDEO, logits_to_keep=torch.tensor([1000]))


@pytest.mark.parametrize("config", [CONFIG, STAGE1, STAGE2], ids=["all", "stage1", "stage2"])
def test_the_last_tokens_reach_to_the_last_that_was_dropped(config: PruneVidConfig) -> None:
    whole, trace = logits(config, ONE_VIDEO)
    length, (row,) = make_inputs(ONE_VIDEO)["input_ids"].shape[1], left(ONE_VIDEO, trace)
    last = max(set(range(length)) - set(row))
    there = length - last - 1
    close(logits(config, ONE_VIDEO, logits_to_keep=there)[0], whole[:, -there:], LOGITS)
    for more in (there + 1, length, length + 9):
        with pytest.raises(UnsupportedError, match=str(last) if more == there + 1 else None):
            logits(config, ONE_VIDEO, logits_to_keep=more)


def test_positions_under_generate() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    last = torch.tensor([inputs["input_ids"].shape[1] - 1])
    with pruned(model, CONFIG):
        plain = model.generate(**inputs, max_new_tokens=1, do_sample=False)
        assert torch.equal(model.generate(**inputs, max_new_tokens=1, do_sample=False, logits_to_keep=last), plain)


@pytest.mark.parametrize("keep", [0, 7, torch.tensor([3, 30, -1])], ids=["all", "last", "positions"])
def test_with_everything_kept_it_is_the_stock_model(keep: Any) -> None:
    model, inputs = tiny_model(), make_inputs(RAGGED)
    with torch.no_grad():
        stock = model(**inputs, logits_to_keep=keep).logits
        with pruned(model, KEEP):
            assert torch.equal(model(**inputs, logits_to_keep=keep).logits, stock)


def test_a_model_whose_forward_is_called_past_its_hooks() -> None:
    """As peft does."""
    inputs = make_inputs(ONE_VIDEO)
    at = torch.tensor([inputs["input_ids"].shape[1] - 2])
    with torch.no_grad(), pruned(tiny_model(), CONFIG):
        assert torch.equal(
            tiny_model().forward(**inputs, logits_to_keep=at).logits, tiny_model()(**inputs, logits_to_keep=at).logits
        )


def test_each_thread_has_its_own_call() -> None:
    """Another thread's call comes between this one's prompt and its logits."""
    model, config = copy.deepcopy(tiny_model()), CONFIG
    length = make_inputs(ONE_VIDEO)["input_ids"].shape[1]
    asked = torch.tensor([3, length - 2])
    alone, got = logits(config, ONE_VIDEO, logits_to_keep=asked)[0], []

    def between(*_given: Any) -> None:
        if threading.current_thread() is first:
            other.start()
            other.join(PATIENCE)

    def work(**options: Any) -> None:
        with torch.no_grad():
            got.append(model(**make_inputs(ONE_VIDEO), **options).logits)

    first = threading.Thread(target=work, kwargs={"logits_to_keep": asked})
    other = threading.Thread(target=work, kwargs={"labels": spelt(ONE_VIDEO)})
    with pruned(model, config):
        model.model.language_model.norm.register_forward_hook(between)
        first.start()
        first.join(PATIENCE)
    assert len(got) == 2 and torch.equal(got[1], alone)


# ---- labels


def spelt(case: Any, all_tokens: bool = False) -> torch.Tensor:
    """Labels of the text, or of all tokens; -100 on padding."""
    inputs = make_inputs(case)
    said = inputs["attention_mask"].bool()
    if not all_tokens:
        said &= inputs["mm_token_type_ids"] == 0
    return inputs["input_ids"].masked_fill(~said, -100)


@pytest.mark.parametrize("all_tokens", [False, True], ids=["text", "all"])
@pytest.mark.parametrize("case", [ONE_VIDEO, RAGGED, MIXED], ids=["one_video", "ragged", "mixed"])
@pytest.mark.parametrize("config", [CONFIG, STAGE1, STAGE2], ids=["all", "stage1", "stage2"])
def test_a_loss_is_that_of_the_labels_that_are_left(config: PruneVidConfig, case: Any, all_tokens: bool) -> None:
    labels = spelt(case, all_tokens)
    with torch.no_grad(), pruned(tiny_model(), config) as trace:
        out = tiny_model()(**make_inputs(case), labels=labels)
    predicted, wanted = [], []
    for b, row in enumerate(left(case, trace)):
        own = out.logits[b, -len(row) :]
        for before, i in enumerate(row[1:]):
            if i >= 0 and labels[b, i] != -100:
                predicted.append(own[before])
                wanted.append(labels[b, i])
    close(out.loss, cross_entropy(torch.stack(predicted), torch.stack(wanted)), LOGITS)


def test_a_loss_counts_the_items_that_a_trainer_counted() -> None:
    labels = spelt(RAGGED)
    with torch.no_grad(), pruned(tiny_model(), CONFIG):
        mean = tiny_model()(**make_inputs(RAGGED), labels=labels).loss
        items = int((labels != -100).sum()) - len(labels)  # each row's first label is of a token that nothing precedes
        close(tiny_model()(**make_inputs(RAGGED), labels=labels, num_items_in_batch=items).loss, mean, LOGITS)


def test_a_loss_of_ones_own() -> None:
    model = copy.deepcopy(tiny_model())
    model.loss_function = lambda logits, labels, **_: (logits.shape[:2] == labels.shape) + labels.sum() * 0.0
    mine = model.loss_function
    with torch.no_grad(), pruned(model, CONFIG):
        assert float(model(**make_inputs(ONE_VIDEO), labels=spelt(ONE_VIDEO)).loss) == 1
    assert model.loss_function is mine


@pytest.mark.parametrize("wrong", ["positions", "list", "array", "count", "shifted", "shape", "kind"])
def test_labels_that_have_no_place(wrong: str) -> None:
    inputs, labels = make_inputs(ONE_VIDEO), spelt(ONE_VIDEO)
    more = {
        "positions": {"logits_to_keep": torch.arange(labels.shape[1])}, "count": {"logits_to_keep": 5},
        "list": {"logits_to_keep": [1]}, "array": {"logits_to_keep": np.arange(3)}, "kind": {"labels": labels.tolist()},
        "shifted": {"shift_labels": labels}, "shape": {"labels": labels[:, 1:]},
    }[wrong]  # fmt: skip
    with torch.no_grad(), pruned(tiny_model(), CONFIG), pytest.raises(ConfigError):
        tiny_model()(**{**inputs, "labels": labels, **more})


def step(model: Any, case: Any) -> list[torch.Tensor]:
    model.zero_grad()
    loss = model(**make_inputs(case), labels=spelt(case)).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_a_training_step_with_everything_kept_is_the_stock_models(checkpointing: bool) -> None:
    model = copy.deepcopy(tiny_model()).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    stock = step(model, RAGGED)
    with pruned(model, KEEP):
        ours = step(model, RAGGED)
    assert len(stock) == len(ours) > 50 and all(torch.equal(*pair) for pair in zip(ours, stock, strict=True))


@pytest.mark.parametrize("case", [ONE_VIDEO, RAGGED], ids=["one_video", "ragged"])
@pytest.mark.parametrize("config", [CONFIG, STAGE1, STAGE2], ids=["all", "stage1", "stage2"])
def test_gradients_are_those_of_masking(config: PruneVidConfig, case: Any) -> None:
    """The decision has none: what is left has, as if the dropped columns had been masked."""
    inputs, grads = make_inputs(case), []
    embeds, _ = text_inputs(tiny_model("eager"), make_inputs(case))
    positions, _ = adapter_for(tiny_model()).reference_positions(**inputs)
    model, other = (copy.deepcopy(tiny_model("eager")).train() for _ in range(2))
    with pruned(model, config) as trace:
        loss = model(**inputs).logits[:, -1].logsumexp(-1).sum()
    loss.backward()
    nothing_new = torch.nn.functional.pad(inputs["input_ids"], (0, 1))
    with_gradients = masked_logits.__wrapped__
    rows = with_gradients(other, embeds, positions, inputs, nothing_new, trace, config.enable_cache_compression)
    wanted = torch.cat(rows).logsumexp(-1).sum()
    wanted.backward()
    close(loss, wanted, LOGITS)
    for each in (model, other):
        decoder = each.model.language_model
        weights = [*decoder.layers.named_parameters(), *each.lm_head.named_parameters()]
        grads.append({f"{i} {name}": p.grad for i, (name, p) in enumerate(weights)})
    assert len(grads[0]) > 50
    for name, got in grads[0].items():
        close(got, grads[1][name], GRADIENTS, msg=lambda m, name=name: f"{name}: {m}")


def test_a_release_that_renames_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = type(tiny_model()).forward
    monkeypatch.setattr(type(tiny_model()), "forward", lambda self, input_ids=None, **others: stock(self, input_ids))
    with pytest.raises(SetupError, match="logits_to_keep"), pruned(tiny_model(), CONFIG):
        pass


def test_a_release_whose_model_asks_another_for_its_loss() -> None:
    model = copy.deepcopy(tiny_model())
    stock = type(model).forward

    class Other(type(model)):  # type: ignore[misc]
        def forward(self, *args: Any, labels: Any = None, logits_to_keep: Any = 0, **kwargs: Any) -> Any:
            return stock(self, *args, logits_to_keep=logits_to_keep, **kwargs)

    model.__class__ = Other
    with torch.no_grad(), pruned(model, CONFIG), pytest.raises(SetupError, match="loss_function"):
        model(**make_inputs(ONE_VIDEO), labels=spelt(ONE_VIDEO))
