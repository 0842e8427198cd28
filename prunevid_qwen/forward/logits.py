"""Places that a caller counts in the sequence as it came: `logits_to_keep` and labels, after tokens were dropped.

The decoder returns the states of what is left; the model makes logits of some of them, and a loss of logits and labels.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters.attachments import StandIn, replaced
from prunevid_qwen.adapters.seams import missing_seam, require_arguments, taken, with_logits
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.padding import gather_tokens
from prunevid_qwen.forward.prefill import Prefill
from prunevid_qwen.tokens.device import moved


class Logits(threading.local):
    """The call of the model under way in this thread: which of its arguments count places of the sequence.

    Args:
        model: the model itself, which makes logits and losses.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._asked: dict[str, Any] = {}  # arguments of the call
        self._prompt: Prefill | None = None  # its prompt, where that was shortened
        self._rows: Tensor | None = None
        self._counted = False  # the loss was asked for

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the model's calls and its loss inside the block.

        Raises:
            SetupError: the installed transformers names an argument otherwise.
        """
        taken(type(self.model).forward, "the model's call", "logits_to_keep", "labels")
        stock, loss = self.model.forward, getattr(self.model, "loss_function", None)
        if loss is None:
            raise missing_seam("the model", "loss_function")
        names, own = tuple(inspect.signature(stock).parameters), "_loss_function" in vars(self.model)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._call(stock, {**dict(zip(names, args, strict=False)), **kwargs}, args, kwargs)

        made = StandIn(loss, lambda *args, **kwargs: self._loss(loss, args, kwargs))
        self.model.loss_function = made
        try:
            with replaced(self.model, "forward", forward):  # peft calls it by that name, past every hook
                yield
        finally:
            made.close()
            if own:
                self.model.loss_function = loss
            else:
                del self.model._loss_function

    @property
    def for_an_answer(self) -> bool:
        """True when the last tokens' logits are asked for, as `generate` does: the next token follows the last one."""
        keep = self._asked.get("logits_to_keep")
        return isinstance(keep, int) and keep > 0

    @property
    def for_next_token(self) -> bool:
        """True when the last token's logits alone are asked for, as each step of `generate` without a cache does."""
        return self.for_an_answer and self._asked["logits_to_keep"] == 1

    @property
    def _balances(self) -> bool:
        """True when the routers of a mixture of experts are asked for, of which a loss is made."""
        asked = self._asked.get("output_router_logits")
        usual = getattr(self.model.config.get_text_config(), "output_router_logits", False)
        return bool(usual if asked is None else asked)

    def shortened(self, state: Prefill) -> None:
        """Note a prompt that has lost tokens.

        Raises:
            UnsupportedError: what is asked for has no place in what is left.
        """
        if not self._asked:  # somebody calls the root alone, which makes no logits
            return
        keep, labels = self._asked.get("logits_to_keep"), self._asked.get("labels")
        self._prompt = state
        if self._balances:
            raise UnsupportedError(
                "the load-balancing loss needs the routers' logits of all tokens, but some were dropped or merged: "
                "leave output_router_logits out"
            )
        if labels is not None:
            _check_labels(labels, keep, self._asked.get("shift_labels"), state)
        elif isinstance(keep, int) and keep > 0:
            last = [int(row.start.visual[-1]) - row.length for row in state.rows if row.start is not None]
            if keep >= -max(last):  # so many tokens from the end on stands the last visual one
                self._check_last(keep, state)

    def _check_last(self, keep: int, state: Prefill) -> None:
        rows = rows_of(state)
        asked = rows[:, -keep:]
        width = asked.shape[1]
        stands = torch.arange(width, device="cpu") + state.valid.shape[1] - width
        gone = ((asked != stands) & state.came[:, -keep:]).nonzero()
        if gone.numel():
            b, at = gone[0].tolist()
            raise UnsupportedError(
                f"logits_to_keep={keep} includes position {rows.shape[1] - width + at} of row {b}, whose token is "
                "dropped or merged. Give a smaller number (all tokens after the last image or video are left), or 0 "
                "for the logits of all tokens that are left"
            )

    def placed(self, out: Any) -> Any:
        """Put the states of a shortened prompt where the caller counts them, if positions are asked for.

        Args:
            out: what the root returned; its first entry is [B, K, D].

        Returns:
            The same with [B, S, D], NaN where no token is left, for the model to pick from; None: leave as it is.

        Raises:
            UnsupportedError: a position asked for is one of those.
        """
        keep, state = self._asked.get("logits_to_keep"), self._prompt
        if state is None or _counts_from_the_end(keep):
            return None
        rows = rows_of(state)
        _check_positions(rows, keep)
        hidden = out[0]
        at = moved(rows, hidden.device)
        wide = gather_tokens(hidden, at.clamp(min=0)).masked_fill((at < 0)[..., None], torch.nan)
        if isinstance(out, tuple):
            return (wide, *out[1:])
        out[next(iter(out.keys()))] = wide
        return out

    def _call(self, stock: Callable[..., Any], asked: dict[str, Any], args: Any, kwargs: Any) -> Any:
        self._asked, self._prompt, self._counted = asked, None, False
        try:
            out = stock(*args, **kwargs)
            if self._prompt is not None and asked.get("labels") is not None and not self._counted:
                raise missing_seam("the model's call", "loss_function")
            return out
        finally:
            self._asked, self._prompt = {}, None

    def _loss(self, stock: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        self._counted, state = True, self._prompt
        if state is None:
            return stock(*args, **kwargs)
        require_arguments(kwargs, "the call of loss_function", "labels")
        return stock(
            *args, **{**kwargs, "labels": labels_left(state, kwargs["labels"], kwargs.get("ignore_index", -100))}
        )


def rows_of(state: Prefill) -> Tensor:
    """Say which row of the decoder's output is each token of a prompt as it came.

    Args:
        state: of a prompt after the decoder.

    Returns:
        [B, S] int64 on the CPU; -1 for padding and for visual tokens that were dropped or merged with others.
    """
    out = torch.full(state.came.shape, -1, dtype=torch.long, device="cpu")
    for b, row in enumerate(state.rows):
        came, left = (valid[b].nonzero()[:, 0] for valid in (state.came, state.valid))
        place = torch.arange(came.numel(), device="cpu")
        layout = row.start
        for each in row.reductions:
            if layout is None:
                continue
            layout, whole = layout.to(each.map.target.device).apply(each.map)
            alone = whole.alone
            if each.map.mix is not None:  # which only the map over the visual tokens has
                alone = alone.index_copy(0, layout.visual, each.map.alone)
            target, alone = whole.target.cpu(), alone.cpu()
            target = torch.where((target >= 0) & alone[target.clamp(min=0)], target, -1)
            place = torch.where(place >= 0, target[place.clamp(min=0)], -1)
        out[b, came] = torch.where(place >= 0, left[place.clamp(min=0)], -1)
    return out


def labels_left(state: Prefill, labels: Tensor, ignored: int = -100) -> Tensor:
    """Gather labels with the tokens that are left.

    A label stays with its token. The labels of dropped and merged visual tokens are left out, and so is that of a row's
    first token, which no token of its own precedes. So each text token is predicted from what precedes it now.

    Args:
        state: of a prompt after the decoder.
        labels: [B, S] of the prompt as it came.
        ignored: what stands where nothing is to be predicted.

    Returns:
        [B, K].
    """
    rows = moved(rows_of(state), labels.device)
    out = labels.new_full(state.valid.shape, ignored)
    b, at = (rows >= 0).nonzero(as_tuple=True)
    out[b, rows[b, at]] = labels[b, at]
    first = moved(state.valid.long().argmax(-1, keepdim=True), labels.device)
    return out.scatter(1, first, ignored)


def _check_labels(labels: Any, keep: Any, shifted: Any, state: Prefill) -> None:
    if not isinstance(labels, Tensor) or labels.shape != state.came.shape:
        came = list(labels.shape) if isinstance(labels, Tensor) else f"a {type(labels).__name__}"
        raise ConfigError(
            f"labels are {came}, but the prompt is {list(state.came.shape)}: give one label for each token of the "
            "prompt, and -100 for tokens without a prediction"
        )
    if not _counts_from_the_end(keep) or keep:
        raise UnsupportedError(
            "the loss of a pruned prompt needs the logits of all tokens that are left, but logits_to_keep came with "
            "labels: leave logits_to_keep out"
        )
    if shifted is not None:
        raise UnsupportedError(
            "shift_labels cannot be used with a pruned prompt, because the label after a dropped token would be lost: "
            "pass labels instead"
        )


def _check_positions(rows: Tensor, keep: Any) -> None:
    """Refuse positions of which no token is left; what lies outside the prompt the model refuses itself."""
    places = torch.arange(rows.numel(), device="cpu").view(rows.shape).masked_fill(rows >= 0, -1)
    try:
        asked = with_logits(places[..., None], keep.detach().cpu() if isinstance(keep, Tensor) else keep)
    except (IndexError, RuntimeError, TypeError, ValueError):
        return  # the model picks in the same way, and says so
    gone = asked[asked >= 0].tolist()
    if gone:
        b, at = divmod(gone[0], rows.shape[1])
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise UnsupportedError(
            f"logits_to_keep has position {at} of row {b}{more}, which is padding or a dropped or merged visual token. "
            "Give positions of text, [B, P] if they differ between rows, or 0 for all tokens that are left"
        )


def _counts_from_the_end(keep: Any) -> bool:
    """Tell whether tokens are asked for by their number, 0 for all; else positions are, which tokens may have lost."""
    return keep is None or (isinstance(keep, int) and keep >= 0)
