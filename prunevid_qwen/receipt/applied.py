"""Did the pruning that was asked for happen, and was anything left of what was shown?"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.amounts import percent
from prunevid_qwen.errors import PruningNotApplied, abridged
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.receipt.stages import Stage, Stages, layout_before
from prunevid_qwen.tokens.trace import DOOR, SampleTrace, Trace

_log = logging.getLogger(__name__)

_LEAST_SHARE = 0.01  # of the visual tokens; what answers with less is said in a warning


def check_applied(trace: Trace, what: PruneVidConfig | Plan, shown: Sequence[int] | None = None) -> None:
    """Make sure that every stage that had something to do did it.

    Args:
        trace: of the prompt.
        what: was asked for.
        shown: visual tokens of each prompt of the batch, counted in its own token ids; None where they are not known.

    Raises:
        PruningNotApplied: a stage was asked for, there was something to prune, and it did not act; or the hooks saw
            other visual tokens than the prompt holds.
    """
    if shown is not None:
        times = len(trace.samples) // max(1, len(shown))  # beams are rows
        seen = [sample.tokens for sample in trace.samples]
        if seen != [tokens for tokens in shown for _ in range(times)] or not seen:
            raise PruningNotApplied(
                f"the prompts have {list(shown)} visual tokens, but the hooks saw {seen}, so the model was not pruned: "
                "call the model itself, not a compiled or replaced forward"
            )
    stages = Stages.of(what)
    for number, sample in enumerate(trace.samples):
        if not sample.tokens:
            continue
        idle = sorted({*trace.steps_at} - {each.at for each in sample.reductions})
        if idle:
            where = " and ".join("the decoder's door" if at == DOOR else f"layer {at}" for at in idle)
            raise PruningNotApplied(f"steps at {where} were asked for, but did not see sample {number}")
        acted = [stages.of_reduction(each) for each in sample.reductions]
        for stage in stages.all:
            if stage not in acted:
                raise PruningNotApplied(
                    f"stage {stage.number} ({stage.name}) was asked for, but did not see sample {number}"
                )
        for stage, at, step in stages.done(sample):
            before = stages.of_reduction(sample.reductions[at - 1]) if step else None
            if before is not None and before.own is not stage.own:
                continue  # its budget is of what came to its first cut, and another method has cut since
            why = _kept_too_much(stage, sample, at, step)
            if why:
                raise PruningNotApplied(f"{why} of sample {number} came through")


def _kept_too_much(stage: Stage, sample: SampleTrace, at: int, step: int) -> str | None:
    """Say what was asked for where everything came through a reduction and should not have."""
    done = sample.reductions[at].map
    if not done.is_identity:
        return None
    if stage.number == 1 and not stage.selects:
        lever = stage.lever
        if (lever is not None and getattr(stage.own, lever) == 1) or stage.why_unchanged(sample.blocks) is not None:
            return None
        return f"merger {stage.name!r}{stage.asks and ' at '}{stage.asks} was asked for, and all {sample.tokens} tokens"
    most = stage.most(layout_before(sample, at), step)
    if most is None or done.n_in - most <= 1:
        return None
    what = f"at most {stage.count} of each video and image" if stage.count is not None else f"at most {most}"
    return f"selector {stage.name!r} was asked for {what}, and all {done.n_in} tokens"


def warnings_of(sample: SampleTrace, what: PruneVidConfig | Plan) -> list[str]:
    """Say in words which stages left hardly any visual tokens: less than a video needs to be seen at all.

    That is fewer than one a temporal position (an image has one), or less than 1 % of all. One sentence, or none.
    """
    stages = Stages.of(what)
    positions = sum(block.grid[0] for block in sample.blocks)
    few = []
    for number, given, left, stage in (
        (1, sample.tokens, sample.after_stage1, stages.door),
        (2, sample.after_stage1, sample.after_stage2, stages.cuts[-1] if stages.cuts else None),
    ):
        if left != given and (left < positions or left < _LEAST_SHARE * sample.tokens):
            few.append((f"stage {number} left {left}", left, "" if stage is None else _more(stage)))
    if not few:
        return []
    left = few[-1][1]
    why = [f"fewer than one for each of {positions} temporal positions"] if left < positions else []
    why += [f"{percent(left / sample.tokens)} of all"] if left < _LEAST_SHARE * sample.tokens else []
    return [
        f"{' and '.join(each for each, _, _ in few)} of {sample.tokens} visual tokens, {' and '.join(why)}: the answer "
        f"may miss most of what was shown. {'. '.join(filter(None, (more for _, _, more in few)))}".rstrip()
    ]


def _more(stage: Stage) -> str:
    """Say which option keeps more."""
    if stage.threshold is not None:
        return f"A keep_threshold below {stage.threshold:g} keeps more"
    value = None if stage.lever is None else getattr(stage.own, stage.lever, None)
    return f"A {stage.lever} above {value:g} keeps more" if isinstance(value, (int, float)) else ""


def log_warnings(trace: Trace, what: PruneVidConfig | Plan) -> None:
    """Log what `warnings_of` says of the rows of a batch, each sentence once."""
    for warning in dict.fromkeys(each for sample in trace.samples for each in warnings_of(sample, what)):
        _log.warning(abridged(warning))
