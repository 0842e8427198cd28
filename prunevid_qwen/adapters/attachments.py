"""What a context attaches to a model: dead once the context is closed, and nothing that a copy of the model keeps.

A model may be copied inside the context, by ``copy.deepcopy``, ``pickle`` or ``torch.save``. The copy holds dead hooks,
and functions of its own where the model has stand-ins: it is a stock model, inside the context and after it.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import MethodType
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


class Hook:
    """A hook of a context. Copies of it do nothing, and pickled ones need nothing of this package to be loaded.

    Args:
        act: what it does, while the context is open.
    """

    def __init__(self, act: Callable[..., Any]) -> None:
        self._act: Callable[..., Any] | None = act
        self.number = 0  # under which torch keeps it

    def __call__(self, *given: Any) -> Any:
        """Do what it does, in an open context."""
        act = self._act
        return None if act is None else act(*given)

    def close(self) -> None:
        """Do nothing from now on: a shallow copy of the model may go on holding this very hook."""
        self._act = None

    def __reduce__(self) -> Any:
        # A function that takes anything and returns None. With it goes a handle, whose loading keeps torch from giving
        # this number, which stands in the model's tables, to another hook: that would be called as this one is.
        handle = RemovableHandle(OrderedDict())
        handle.id = self.number
        return getattr, (nullcontext(handle), "__exit__")


def hook(stack: ExitStack, register: Callable[..., RemovableHandle], act: Callable[..., Any], **options: Any) -> None:
    """Hook a module until ``stack`` closes.

    Args:
        stack: of the context.
        register: ``module.register_forward_hook`` and the like.
        act: the hook.
        options: of ``register``.
    """
    made = Hook(act)
    handle = register(made, **options)
    made.number = handle.id
    stack.callback(made.close)
    stack.callback(handle.remove)


class StandIn:
    """A callable in the place of a module's own. A copy of it is the module's own, bound to the copied module.

    Args:
        stock: what it stands for: a method, or what somebody put in its place.
        act: what it does, in an open context.
    """

    def __init__(self, stock: Callable[..., Any], act: Callable[..., Any]) -> None:
        functools.update_wrapper(self, stock, updated=())  # the library may ask for its signature
        self._stock = stock
        self._act: Callable[..., Any] | None = act

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Act, or do what it stood for once the context is closed."""
        act = self._act
        return (self._stock if act is None else act)(*args, **kwargs)

    def close(self) -> None:
        """Do what it stood for from now on."""
        self._act = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._own(), memo)

    def __reduce__(self) -> Any:
        own = self._own()
        return own.__reduce__() if isinstance(own, MethodType) else (copy.copy, (own,))  # of a function: itself

    def _own(self) -> Callable[..., Any]:
        stock = self._stock
        while isinstance(stock, StandIn):  # one stands in for another
            stock = stock._stock
        return stock


@contextmanager
def replaced(module: nn.Module, name: str, act: Callable[..., Any]) -> Iterator[None]:
    """Let ``act`` stand in for ``module``'s method ``name`` inside the block; what was there is put back after it."""
    own = vars(module).get(name)
    made = StandIn(getattr(module, name), act)
    setattr(module, name, made)
    try:
        yield
    finally:
        made.close()
        delattr(module, name)
        if own is not None:  # somebody else's replacement on this very module
            setattr(module, name, own)


class Turns:
    """A lock for threads that take turns, in the order in which they came.

    A copy of it is a free lock of its own, as the copied model is.
    """

    def __init__(self) -> None:
        self._guard, self._taken = threading.Lock(), False
        self._waiting: deque[threading.Lock] = deque()

    @property
    def waiting(self) -> int:
        """Threads that wait for their turn."""
        return len(self._waiting)

    def __enter__(self) -> None:
        """Wait for one's turn."""
        mine = threading.Lock()
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine.acquire()
            self._waiting.append(mine)
        try:
            mine.acquire()  # whoever leaves before lets it go
        except BaseException:  # Ctrl-C while it waits
            with self._guard:
                here = mine in self._waiting
                if here:
                    self._waiting.remove(mine)
            if not here:  # the turn has come meanwhile
                self.__exit__()
            raise

    def __exit__(self, *_error: object) -> None:
        """Let the next one in."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

    def __reduce__(self) -> Any:
        return Turns, ()


@contextmanager
def own_weights(module: nn.Module) -> Iterator[None]:
    """Hold the weights that belong to ``module`` itself where accelerate runs it, inside the block.

    accelerate fetches offloaded weights for a module's `forward`, and the library uses some outside it.
    """
    hook = getattr(module, "_hf_hook", None)
    if hook is None or all(each.device.type != "meta" for each in module.parameters(recurse=False)):
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)
