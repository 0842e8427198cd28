"""Small things that the host asks of a device without waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def moved(x: Tensor, device: torch.device) -> Tensor:
    """Copy to ``device``; the host does not wait for the work that is queued on a CUDA GPU.

    It does elsewhere: a copy to the host would be read before it is made, and Apple's GPUs read the source too late.
    """
    return x.to(device, non_blocking=device.type == "cuda")


def input_device(module: nn.Module) -> torch.device:
    """Return where ``module`` takes its inputs.

    Weights that accelerate keeps on the disk or in host memory are on "meta" between calls: then it is the device on
    which accelerate's hooks run the module, and the CPU where there are none.
    """
    own = next((each.device for each in module.parameters()), torch.device("cpu"))
    if own.type != "meta":
        return own
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            device = getattr(each, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return torch.device("cpu")


def tensor_on(values: Sequence[int], device: torch.device) -> Tensor:
    """Put whole numbers of the host on ``device``, [n] int64, as `on` does."""
    return moved(torch.tensor(values, dtype=torch.long), device)


def check_on_device(condition: Tensor, message: Callable[[], str]) -> None:
    """Check a one-element bool: a ValueError at once on a CPU, an assertion on a GPU, which stops without the host.

    Args:
        condition: what has to be true.
        message: says what is wrong; it may read tensors, and does so on a CPU only, after the check has failed.

    Raises:
        ValueError: the condition does not hold; on a GPU torch reports a device-side assertion at its next call.
    """
    if condition.device.type == "cuda":
        torch._assert_async(condition, "a TokenMap or TokenLayout is not valid: run on a CPU to be told which and why")
    elif not bool(condition):
        raise ValueError(message())
