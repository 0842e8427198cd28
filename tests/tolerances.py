"""The one table of tolerances, the same on every machine. Raising one needs a reason in the CHANGELOG.

The rule: a tolerance is so many units in the last place (ulps) of the largest number compared. Sums in another order,
of another CPU's vectors or another library's, differ by a few of those, whatever the size of the number at hand: near
1e4 fp32 numbers are 1e-3 apart, and a fixed 1e-5 asks for equal bits.

Equal bits are claimed for the same shapes in the same process alone: libraries choose another order of a sum by the
shape. Kept tokens and written tokens are compared exactly only where scores are apart, which
`apart` asserts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

# logits and losses of a whole model by two routes; the server counts near ties by it
from prunevid_qwen.kernels.rounding import LOGITS as LOGITS
from prunevid_qwen.kernels.rounding import spacing as spacing

Ulps = Mapping[torch.dtype, int]

# values computed by two routes: sums in another order, or rounded once more. Seen: 11 in fp32, 9 in fp64, 2 in halves
CLOSE: Ulps = {torch.float64: 64, torch.float32: 64, torch.float16: 4, torch.bfloat16: 4}

# a GPU's kernels against the law: exponentials are approximate. As wide as before it was in units; not measured yet
DEVICE: Ulps = {torch.float64: 1024, torch.float32: 1024, torch.float16: 16, torch.bfloat16: 4}

# gradients through a whole model by two routes. Seen: 392
GRADIENTS: Ulps = {torch.float32: 4096}

# features and logits of the authors' reference cases, which another machine computed. Seen: 10
FEATURES: Ulps = {torch.float32: 64}


def close(
    got: Tensor | float,
    wanted: Tensor | float,
    ulps: Ulps | int = CLOSE,
    dtype: torch.dtype | None = None,
    msg: Callable[[str], str] | None = None,
) -> None:
    """Assert that numbers are the same to a few units in the last place of the largest of them.

    Args:
        got, wanted: of one shape and type; infinities have to be the same.
        ulps: how many, by type.
        dtype: in which they were computed; None is the type they have, fp32 for Python's numbers.
        msg: as in ``torch.testing.assert_close``.
    """
    pair = [torch.as_tensor(each) for each in (got, wanted)]
    if dtype is None:
        dtype = torch.float32 if isinstance(got, float) else pair[0].dtype
    finite = [each.detach().double().abs()[each.isfinite()] for each in pair]
    largest = max((float(each.max()) for each in finite if each.numel()), default=0.0)
    allowed = ulps if isinstance(ulps, int) else ulps[dtype]
    torch.testing.assert_close(got, wanted, rtol=0, atol=allowed * spacing(largest, dtype), msg=msg)


def apart(choose: Callable[[Tensor], Tensor], scores: Tensor, ulps: Ulps = LOGITS) -> None:
    """Assert that the scores of any other route, some units in the last place off, would lead to the same choice.

    Args:
        choose: from scores to the places that are chosen, [K], in order where order does not matter.
        scores: [N].
        ulps: how far two routes may differ, by type.
    """
    chosen = choose(scores)
    finite = scores.detach().abs()[scores.isfinite()]
    step = ulps[scores.dtype] * spacing(float(finite.max()) if finite.numel() else 0.0, scores.dtype)
    worst = scores + step
    worst[chosen] = scores[chosen] - step
    assert torch.equal(choose(worst), chosen), "scores are too near to each other for what follows to be compared"


def tokens_apart(logits: Sequence[Tensor]) -> None:
    """Assert that every route would write the same tokens: the best of each step's logits, [B, V], is apart."""
    for step in logits:
        for row in step:
            apart(lambda each: each.argmax(-1, keepdim=True), row)
