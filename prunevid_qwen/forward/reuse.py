"""Reuse in the vision encoder for a plan: whether its methods can be told what they ask for when places are copies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.forward.vision_evidence import watched_vision
from prunevid_qwen.vision.frame_reuse import FrameReuse
from prunevid_qwen.vision.identical import identical_once
from prunevid_qwen.vision.tower import Reuse
from prunevid_qwen.vision.windows import windows_in_batches

_COPIED = ("states", "keys")  # of a copy they are those of what it copies


def reuse_for(adapter: Adapter, plan: Plan) -> Reuse | FrameReuse | None:
    """Return what lets places of videos be copies; None where the plan does not ask for that.

    A tower that is given frames shows whole ones to methods, so they may read all of it: of a copy it is what the
    place has that it copies, with the attention that this would pay now.

    Raises:
        UnsupportedError: the family's tower is of another form, or a method reads attention inside it, which what is
            not encoded does not pay.
        ConfigError: the tower has no such block.
    """
    if not plan.vision.reuses:
        return None
    if adapter.tower_form is None:
        return FrameReuse(adapter, plan.vision)
    query = plan.needs.vision
    odd = [] if query is None else [kind for kind in query.kinds if kind not in _COPIED]
    if odd:
        asking = " and ".join(repr(step.name) for step in plan.steps if step.by.needs.vision is not None)
        raise UnsupportedError(
            f"{asking} reads {', '.join(odd)} of the vision encoder, attention that every place pays, and "
            "reuse_threshold and early_tau leave places out: turn these options off, or choose a method that reads "
            f"{' or '.join(_COPIED)} or nothing of it"
        )
    return Reuse(adapter, plan.vision)


@contextmanager
def encoding_ahead(adapter: Adapter, plan: Plan) -> Iterator[None]:
    """Let features that are made outside `pruned` be those that it would make for a plan: its copies, and its taps.

    Whoever calls the tower with some positions of a video passes ``reuse``, see `Reuse.planning`.

    Raises:
        UnsupportedError, ConfigError: as `reuse_for` and `watched_vision`.
    """
    reuse, query = reuse_for(adapter, plan), plan.needs.vision
    with ExitStack() as stack:
        stack.enter_context(windows_in_batches(adapter))
        if query is not None:
            stack.enter_context(watched_vision(adapter, query, None if reuse is None else reuse.tapped))
        if reuse is not None:
            stack.enter_context(reuse.reusing())
            stack.enter_context(reuse.planning())
        elif plan.vision.reuse_identical:  # reuse copies equal positions itself
            stack.enter_context(identical_once(adapter))
        yield
