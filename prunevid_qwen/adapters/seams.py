"""The names that hooks read in the library's calls. A name that is gone is an error, never a guess.

transformers may rename the keyword arguments of its modules in any release. A hook that looked for a renamed argument
with ``get`` would find nothing: it would prune nothing, or leave the library's own value in force.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from prunevid_qwen.errors import SetupError, UnsupportedError
from prunevid_qwen.version import PIP_NEWEST

CACHE_NAMES = ("cache", "past_key_values")
"""What the cache argument is called: since transformers 5.24, and before."""


def transformers_release() -> str:
    """Return the version of the installed transformers."""
    import transformers

    return str(transformers.__version__)


def attention_called(name: str, eager: Callable[..., Any]) -> Callable[..., Any]:
    """Return the library's attention of that name, which a user may have replaced.

    Args:
        name: "sdpa" and the like.
        eager: that of the model's own file, which "eager" means.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)  # type: ignore[no-any-return]


def missing_seam(place: str, wanted: str, came: Any = ()) -> SetupError:
    """Make the error for a name that the installed transformers does not use where it is read.

    Args:
        place: the call, as a person would say it: "a decoder layer".
        wanted: the name.
        came: the names that were there instead.
    """
    there = f" (it has {', '.join(map(str, came))})" if came else ""
    return SetupError(
        f"transformers {transformers_release()} has no {wanted!r} in {place}{there}, which pruning needs: this release "
        f"is not supported yet. {PIP_NEWEST}"
    )


def require_arguments(kwargs: Mapping[str, Any], place: str, *names: str) -> None:
    """Raise unless a call was given all of these keyword arguments.

    Raises:
        SetupError: one of them is missing; the message names it, the call and the newest tested transformers.
    """
    for name in names:
        if name not in kwargs:
            raise missing_seam(place, name, kwargs)


def first_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], place: str, name: str) -> Any:
    """Return an argument that a call passes first by position, or by ``name``.

    Raises:
        SetupError: it is in neither place.
    """
    if args:
        return args[0]
    require_arguments(kwargs, place, name)
    return kwargs[name]


def is_empty(value: Any) -> bool:
    """Tell whether an argument holds nothing: None, or a dict in which nothing but None stands."""
    return value is None or (isinstance(value, dict) and all(each is None for each in value.values()))


def checkpointed(layers: Iterable[nn.Module]) -> bool:
    """Tell whether gradient checkpointing, as the library does it, may keep these layers from their cache.

    They run anew in the backward pass, which would fill it twice.
    """
    return any(layer.training and getattr(layer, "gradient_checkpointing", False) for layer in layers)


def check_not_checkpointed(layers: Iterable[nn.Module], filled: bool) -> None:
    """Make sure that layers which are to lose tokens, or whose cache is to be read, run once and fill it.

    Args:
        layers: of the decoder.
        filled: the one that has just run wrote into its cache: newer releases checkpoint none without gradients.

    Raises:
        UnsupportedError: gradient checkpointing runs them anew.
    """
    if not filled and checkpointed(layers):
        raise UnsupportedError(
            "gradient checkpointing runs the layers without a cache, so stages 2 and 3 cannot prune: prune by stage 1 "
            "alone (enable_stage2=False, enable_cache_compression=False), or call "
            "model.gradient_checkpointing_disable()"
        )


def taken(function: Callable[..., Any], place: str, *names: str) -> None:
    """Raise unless a function of the library names all of these parameters; ``(*args, **kwargs)`` passes them on.

    Raises:
        SetupError: it has no such parameter.
    """
    parameters = inspect.signature(function).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    if not {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds:
        require_arguments(parameters, place, *names)


def with_logits(x: Tensor, keep: Any) -> Tensor:
    """Pick of [B, S, D] the tokens that get logits, as the installed transformers does.

    Args:
        x: what stands at each token.
        keep: `logits_to_keep`; only newer releases read [B, P] as positions of each row.
    """
    from transformers import modeling_utils

    by_row = getattr(modeling_utils, "slice_logits_to_keep", None)
    if by_row is not None:
        return by_row(x, keep)  # type: ignore[no-any-return]
    return x[:, slice(-keep, None) if isinstance(keep, int) else keep, :]


def cache_name(kwargs: Mapping[str, Any], place: str = "the decoder's call") -> str:
    """Say under which name a call passes its cache.

    Raises:
        SetupError: it passes none under a known name.
    """
    for name in CACHE_NAMES:
        if name in kwargs:
            return name
    raise missing_seam(place, CACHE_NAMES[0], kwargs)


def cache_parameter(function: Callable[..., Any]) -> str:
    """Say under which name a function of the library takes a cache.

    Raises:
        SetupError: it takes none under a known name.
    """
    return cache_name(inspect.signature(function).parameters, f"the signature of {function.__qualname__}")


def cache_of(given: Any) -> Any:
    """Return the cache in a call's keyword arguments or in a model's output, None where there is none."""
    if isinstance(given, dict) and not hasattr(given, "to_tuple"):
        return next((given[name] for name in CACHE_NAMES if given.get(name) is not None), None)
    # the old name is a property of newer outputs that warns: it is asked only where the other is not there
    return next((getattr(given, name) for name in CACHE_NAMES if hasattr(given, name)), None)
