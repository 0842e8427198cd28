"""`pruned(model, config)`: the only place that hooks a model, and the only place where methods and models meet.

Seams, in the order in which a forward passes them (no forward is copied, no class is changed):

1. Where the library makes positions is replaced inside the context, by the adapter: positions as trained, and the
   length of the true prompt. Where it is asked for the features of images and videos, their grids are noted, see
   `pictures`.
2. The *model*'s forward and loss are replaced inside the context: what is asked of its logits, see `logits`.
   The *vision tower*'s forward is replaced inside the context: large inputs go through in chunks, see `vision`. Where
   places of a video may be copies, so are the forwards of modules inside it, see `prunevid_qwen.vision.tower`.
   Positions of equal pixels are taken out of its input, see `prunevid_qwen.vision.identical`. The attention of its
   blocks takes windows in batches, see `prunevid_qwen.vision.windows`.
   Its blocks are hooked, and the root's `get_image_features` and `get_video_features` replaced, for a selector that
   looks into them, see `vision_evidence`.
3. *root* pre-hook: remembers the token ids, which the decoder never sees. Its hook makes sure that the decoder's own
   hook saw them.
4. *decoder* pre-hook: stage 1, and the mask of every later call on a shortened cache.
5. At each step between the layers, the *attention* of the layer before it: scores of question rows from its inputs and
   the cache. *First layers'* hooks: a selector's probe follows each of them, see `probe`.
6. The *layer* before each step: stage 2 on its output, stage 3 on the cache.
7. *later layers'* pre-hooks: mask and rotary angles of what is left.
   *First layers'* hooks: features that the decoder adds to their outputs, where a step acts so early, see `deepstack`.
8. *decoder* hook, also on errors: forgets the prefill.

What changes a layer's input or output (6, 7) comes before hooks of others, whichever were made first: the library's
hidden states of a layer are what goes on to the layer after it, and a hook on a layer sees what that layer is given. At
the decoder's door hooks keep the order in which they were made: one from before the context sees the whole prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn

from prunevid_qwen.adapters import Adapter, adapter_for
from prunevid_qwen.adapters.attachments import hook
from prunevid_qwen.adapters.picture_grids import Pictures
from prunevid_qwen.config import get_paper_config, resolve_layer
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward import selfcheck
from prunevid_qwen.forward.attention import check_queries
from prunevid_qwen.forward.collector import EvidenceCollector
from prunevid_qwen.forward.deepstack import adds_here
from prunevid_qwen.forward.eager import uncompiled
from prunevid_qwen.forward.layer_kinds import mixed, on_attending_layers
from prunevid_qwen.forward.logits import Logits
from prunevid_qwen.forward.plan import Step
from prunevid_qwen.forward.prefix import Prefixes
from prunevid_qwen.forward.pruned_run import Run
from prunevid_qwen.forward.pruning import Pruning, plan_of
from prunevid_qwen.forward.reuse import reuse_for
from prunevid_qwen.forward.selfcheck import SelfCheck, ensure_checked
from prunevid_qwen.stage1_merge.blocks import IMAGES_PASS
from prunevid_qwen.tokens.layout import Block
from prunevid_qwen.tokens.trace import DOOR, Trace
from prunevid_qwen.vision.identical import identical_once
from prunevid_qwen.vision.windows import windows_in_batches

_active: WeakSet[nn.Module] = WeakSet()
_lock = threading.Lock()


@contextmanager
def pruned(
    model: nn.Module,
    config: Pruning | None = None,
    marks: Sequence[Tensor | None] | None = None,
    prefixes: Prefixes | None = None,
) -> Iterator[Trace]:
    """Prune every prompt of ``model`` inside the block, and restore the model afterwards, also after an error.

    ``with pruned(model, config) as trace: model.generate(**inputs)``. It works with stock ``generate`` (greedy,
    sampling, beams, prompt lookup, streamers) and with a loop of your own, for batches of any mix of videos, images and
    texts.

    Args:
        model: a stock transformers model of a supported family.
        config: the pruning: a `PruneVidConfig`, a `Plan` of steps, or a list of methods. Entries of a list are options
            of registered methods (such as ``FastVOptions()``), reducers with ``layers``, or `Step`s. Only the listed
            methods are applied. None is `get_paper_config`.
        marks: for methods whose `Needs` has ``marks``, such as a selector of marked tokens: for each prompt of the
            batch a tensor [N] in [0, 1] over its visual tokens in order, before stage 1. None for a text.
        prefixes: for prompts about the same videos: holds what their questions share, and is filled by the first.

    Yields:
        The trace of the last prompt. With several threads, see `Trace`.

    Raises:
        UnsupportedError: the family is unknown, the model is tensor-parallel, or it is inside `pruned` already.
        ConfigError: the config or plan does not fit the model.
        SetupError: this release of transformers is not among the tested ones, and its self-check failed.
    """
    adapter = adapter_for(model)
    ensure_checked(adapter.family, attached)
    with attached(adapter, config, marks, prefixes) as trace:
        yield trace


def self_check(family: str) -> SelfCheck:
    """Check on a tiny random model, on the CPU, that pruning works with the installed transformers.

    It takes about a second. It runs at each call, stores no result and changes nothing.

    Args:
        family: ``model_type`` of a supported family, such as "qwen2_5_vl"; see `adapters.families`.
    """
    return selfcheck.self_check(family, attached)


@contextmanager
def attached(
    adapter: Adapter,
    config: Pruning | None = None,
    marks: Sequence[Tensor | None] | None = None,
    prefixes: Prefixes | None = None,
) -> Iterator[Trace]:
    """`pruned` without the check of transformers' release. The self-check itself uses it."""
    parts = adapter.parts
    layers = len(parts.layers)
    plan = plan_of(get_paper_config() if config is None else config, layers)
    adapter.check_release()
    with _lock:
        if parts.root in _active:
            raise UnsupportedError(
                "this model is inside a `pruned` block already, here or in another thread: leave that block first, or "
                "load a second model. Blocks on one model cannot be nested"
            )
        _active.add(parts.root)
    try:
        plan = on_attending_layers(plan, adapter)
        check_queries(plan, adapter.heads)
        if plan.places == "packed" and adapter.spatial:
            raise ConfigError(
                f"places='packed' renumbers positions after each step, but positions of {adapter.family} are times, "
                "heights and widths: use places='kept'"
            )
        if plan.steps and "video" not in adapter.parts.towers and all(_passes_images(step) for step in plan.steps):
            may = any(hasattr(step.by, "merge_images") for step in plan.steps)
            mend = "set merge_images=True (--merge_images)" if may else "choose another merger"
            raise ConfigError(
                f"{plan.steps[0].name!r} merges videos alone, but to a {adapter.family} all is images: {mend}, or "
                "select tokens inside the decoder"
            )
        if plan.drop_empty_frames and not adapter.timestamped:
            raise ConfigError(
                f"drop_empty_frames drops the timestamps of frames that lost all their tokens, but {adapter.family} "
                "writes none: leave drop_empty_frames out"
            )
        reuse = reuse_for(adapter, plan)
        collector = EvidenceCollector(adapter, plan.needs, marks, reuse, bool(plan.vision))
        logits = Logits(parts.model)
        layer = plan.cuts[-1].at if plan.cuts else resolve_layer(None, layers)
        steps_at = tuple(step.at for step in plan.steps)
        pictures = Pictures(adapter.pictures, adapter.noted)
        trace = Trace(plan.position_scheme, layer, layers, steps_at=steps_at)
        run = Run(adapter, plan, collector, logits, pictures, trace, prefixes)
        with ExitStack() as stack:
            stack.enter_context(uncompiled())
            stack.enter_context(adapter.prompts(run.note_prompt, plan.position_scheme == "reference"))
            stack.enter_context(pictures.watching(parts.root))
            stack.enter_context(windows_in_batches(adapter))
            stack.enter_context(collector.watching())
            stack.enter_context(logits.watching())
            stack.enter_context(nullcontext() if reuse is None else reuse.reusing())
            stack.enter_context(adapter.vision_in_chunks(plan.vision_chunk_tokens))
            stack.enter_context(nullcontext() if reuse is None else reuse.planning())
            if plan.vision.reuse_identical and reuse is None:  # reuse copies equal positions itself
                stack.enter_context(identical_once(adapter))
            _hook(stack, run)
            stack.callback(setattr, run.trace, "is_open", False)  # first of all: calls under way see it
            yield run.trace
    finally:
        with _lock:
            _active.discard(parts.root)


def _hook(stack: ExitStack, run: Run) -> None:
    parts, cuts = run.adapter.parts, run.plan.cuts

    def beside(layer: int) -> Any:
        return lambda _module, _args, kwargs, out: run.beside_layer(layer, kwargs, out)

    def added(layer: int) -> Any:
        return lambda _module, _args, _kwargs, out: run.prefill and run.prefill.with_deepstack(layer, out)

    def scored(step: Step) -> Any:
        return lambda _module, args, kwargs, _out: run.after_attention(step, args, kwargs)

    def cut(step: Step) -> Any:
        return lambda _module, _args, kwargs, out: run.after_layer(step, kwargs, out)

    def given(layer: int) -> Any:
        return lambda _module, args, kwargs: run.before_later_layer(layer, args, kwargs)

    def shared(layer: int) -> Any:
        return lambda _module, args, kwargs: run.before_shared_layer(layer, args, kwargs)

    def first(register: Any, act: Any, **options: Any) -> None:
        # in front of others' hooks, whenever those came: they see what is really run
        hook(stack, register, act, with_kwargs=True, prepend=True, **options)

    hook(stack, parts.root.register_forward_pre_hook, run.before_root, with_kwargs=True)
    first(parts.root.register_forward_hook, run.after_root, always_call=True)
    for tower in dict.fromkeys(parts.towers.values()):
        hook(stack, tower.register_forward_pre_hook, lambda module, _args: run.vision.start(module))
        hook(stack, tower.register_forward_hook, lambda module, _args, _out: run.vision.stop(module))
    hook(stack, parts.decoder.register_forward_pre_hook, run.before_decoder, with_kwargs=True)
    hook(stack, parts.decoder.register_forward_hook, run.after_decoder, with_kwargs=True, always_call=True)
    for step in cuts:
        hook(stack, parts.layers[step.at].self_attn.register_forward_hook, scored(step), with_kwargs=True)
        first(parts.layers[step.at].register_forward_hook, cut(step))
    for number in adds_here(
        run.adapter, run.plan
    ):  # in front of `after_layer`: a step sees and cuts what goes on to the next layer
        first(parts.layers[number].register_forward_hook, added(number))
    first_cut = cuts[0].at + 1 if cuts else len(parts.layers)
    if run.plan.door is not None and not run.adapter.spatial:  # what a family counts has gaps after the door
        first_cut = 0
    if mixed(run.adapter):  # each layer is given a mask of its kind
        first_cut = 0
    for number in range(first_cut, len(parts.layers)):
        first(parts.layers[number].register_forward_pre_hook, given(number))
    last = cuts[0].at if cuts else len(parts.layers) - 1
    for number in range(last + 1 if run.prefixes is not None else 0):  # behind all others: the rows are cut last
        hook(stack, parts.layers[number].register_forward_pre_hook, shared(number), with_kwargs=True)
    for number in run.collector.probed_layers:  # in front of `after_layer`, too: before anything is dropped
        first(parts.layers[number].register_forward_hook, beside(number))


def _passes_images(step: Step) -> bool:
    why = getattr(step.by, "why_unchanged", None)
    return step.at == DOOR and why is not None and why([Block("image", (1, 8, 8), 0, 64)]) == IMAGES_PASS
