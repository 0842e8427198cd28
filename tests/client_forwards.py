"""Clients that call the model's forward, and train it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from tests.client_calls import CALLS, EVERY, SHOWN, SINGLE, Call
from tests.models import make_inputs

# ---- forwards


def forward(**given: Any) -> Callable[..., Any]:
    def run(model: Any, samples: Any) -> Any:
        with torch.no_grad():
            return model(**make_inputs(samples), **given)

    return run


def labels_of(inputs: dict[str, Any]) -> torch.Tensor:
    labels: torch.Tensor = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    return labels


def changed(change: Callable[[Any, dict[str, Any]], Any], **more: Any) -> Callable[..., Any]:
    """A forward whose inputs were changed in place, or replaced by what ``change`` returns."""

    def run(model: Any, samples: Any) -> Any:
        inputs = make_inputs(samples)
        inputs = change(model, inputs) or inputs
        with torch.no_grad():
            return model(**inputs, **more)

    return run


def as_bool(_model: Any, inputs: dict[str, Any]) -> None:
    inputs["attention_mask"] = inputs["attention_mask"].bool()


def without(name: str) -> Callable[[Any, dict[str, Any]], None]:
    def drop(_model: Any, inputs: dict[str, Any]) -> None:
        inputs.pop(name, None)

    return drop


def prepared_mask(_model: Any, inputs: dict[str, Any]) -> None:
    size = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.full((size, size), torch.finfo(torch.float32).min).triu(1)[None, None]


def own_positions(model: Any, inputs: dict[str, Any]) -> None:
    names = ("video_grid_thw", "image_grid_thw", "second_per_grid_ts", "attention_mask", "mm_token_type_ids")
    given = {name: inputs[name] for name in names if name in inputs}
    inputs["position_ids"] = model.model.get_rope_index(inputs["input_ids"], **given)[0]


def prepared_mask_and_positions(model: Any, inputs: dict[str, Any]) -> None:
    own_positions(model, inputs)
    prepared_mask(model, inputs)


def embedded(model: Any, inputs: dict[str, Any]) -> None:
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))


def to_the_right(_model: Any, inputs: dict[str, Any]) -> None:
    pads = (inputs["attention_mask"] == 0).sum(1).tolist()
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[name] = torch.stack([row.roll(-pad) for row, pad in zip(inputs[name], pads, strict=True)])


def real_columns(model: Any, samples: Any) -> Any:
    """Padding has no answer: what stands there is nobody's."""
    out = changed(to_the_right)(model, samples).logits
    return [row[: int(mask.sum())] for row, mask in zip(out, make_inputs(samples)["attention_mask"], strict=True)]


def trained(checkpointing: bool = False, **given: Any) -> Callable[..., Any]:
    def run(model: Any, samples: Any) -> Any:
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        inputs = make_inputs(samples)
        out = model(**inputs, labels=labels_of(inputs), **given)
        out.loss.backward()
        return out.loss.detach(), [w.grad for w in model.parameters() if w.grad is not None]

    return run


def labelled(model: Any, samples: Any, **given: Any) -> Any:
    inputs = make_inputs(samples)
    with torch.no_grad():
        out = model(**inputs, labels=labels_of(inputs), **given)
    return out.loss, out.logits


def last_positions(model: Any, samples: Any) -> Any:
    inputs = make_inputs(samples)
    size = inputs["input_ids"].shape[1]
    with torch.no_grad():
        return model(**inputs, logits_to_keep=torch.arange(size - 3, size)).logits


CALLS |= {
    "forward": Call(forward(), prompts=EVERY),
    "forward with states": Call(forward(output_hidden_states=True), prompts=EVERY),
    "forward with attentions": Call(forward(output_attentions=True), prompts=EVERY, attention="eager"),
    "forward as a tuple": Call(forward(return_dict=False), prompts=EVERY),
    "forward with logits to keep": Call(forward(logits_to_keep=2), prompts=EVERY),
    "forward with a tensor of logits to keep": Call(last_positions, prompts=EVERY),
    "forward without a cache": Call(forward(use_cache=False), prompts=EVERY),
    "forward with labels": Call(labelled, prompts=EVERY),
    "forward with labels and logits to keep": Call(functools.partial(labelled, logits_to_keep=4), prompts=EVERY),
    "forward with a mask of bools": Call(changed(as_bool), prompts=EVERY),
    "forward without a mask": Call(changed(without("attention_mask")), prompts=(*SINGLE, "text")),
    "forward with a prepared mask": Call(changed(prepared_mask), prompts=SINGLE),
    "forward with a prepared mask and positions": Call(changed(prepared_mask_and_positions), prompts=SINGLE),
    "forward without types": Call(changed(without("mm_token_type_ids")), prompts=EVERY),
    "forward without seconds": Call(changed(without("second_per_grid_ts")), prompts=EVERY),
    "forward with own positions": Call(changed(own_positions), prompts=SHOWN),
    "forward with embeddings and pixels": Call(changed(embedded), prompts=SHOWN),
    "forward of embedded text": Call(changed(embedded), prompts=("text",)),
    "forward padded on the right": Call(real_columns, prompts=EVERY),
    "forward with a list of logits to keep": Call(forward(logits_to_keep=[-2, -1]), prompts=EVERY),
    "forward without a cache, with logits to keep": Call(forward(use_cache=False, logits_to_keep=3), prompts=EVERY),
    "training": Call(trained(), prompts=EVERY),
    "training without a cache": Call(trained(use_cache=False), prompts=EVERY),
    "training with checkpointing": Call(trained(checkpointing=True, use_cache=False), prompts=EVERY),
}


@torch.no_grad()
def answered_in_training(model: Any, samples: Any) -> Any:
    """As for rewards."""
    model.train().gradient_checkpointing_enable()
    return model.generate(**make_inputs(samples), max_new_tokens=3, do_sample=False)


CALLS["answered in training, with checkpointing"] = Call(answered_in_training, prompts=EVERY)
