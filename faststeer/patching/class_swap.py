"""Change a module's class in place, and back, also where its forward is wrapped.

An instance's own `forward` hides its class's: accelerate's wrappers are rebound, a bound copy of
the class's own is removed, anything else is refused.
"""

from __future__ import annotations

import types
from typing import Any

from torch import nn

from faststeer.models.patch_mark import MARK


def check_replaceable(module: nn.Module, stock: type[nn.Module], what: str) -> None:
    """Raise ValueError, calling the module `what`, where a new class would have no effect."""
    if type(module) is not stock:
        raise ValueError(
            f"{what} is a {type(module).__module__}.{type(module).__qualname__}; only the stock "
            f"{stock.__qualname__} can be patched"
        )
    if not replaceable(module, stock):
        raise ValueError(
            f"{what} has a `forward` of its own, {module.__dict__['forward']!r}, which would hide "
            "the steered one; patch the model before that wrapper is put on, or remove it"
        )


def replaceable(module: nn.Module, stock: type[nn.Module]) -> bool:
    """Return whether changing the class changes what runs, once wrappers are rebound."""
    forward = module.__dict__.get("forward")
    if type(module) is not stock:
        return False
    return (
        forward is None
        or _is_class_forward(forward, module)
        or _is_class_forward(_wrapped_forward(module), module)
    )


def _is_class_forward(forward: Any, module: nn.Module) -> bool:
    """Return whether a `forward` is the class's own, bound: transformers 4.57 leaves such."""
    return getattr(forward, "__func__", None) is type(module).forward


def _wrapped_forward(module: nn.Module) -> Any:
    """Return the forward that accelerate's hooks call."""
    return module.__dict__.get("_old_forward") if "_hf_hook" in module.__dict__ else None


def replace(module: nn.Module, steered: type[nn.Module], state: Any) -> None:
    """Make `module` a `steered`, which finds `state` under `MARK`."""
    _change_class(module, steered)
    module.__dict__[MARK] = state


def restore(module: nn.Module, stock: type[nn.Module]) -> None:
    """Undo `replace`."""
    _change_class(module, stock)
    module.__dict__.pop(MARK, None)


def make_subclassed(module: nn.Module) -> None:
    """Give `module` a subclass that behaves as its class does.

    Code that torch.compile made for the stock class looks at the class and not at hooks, so it
    would not call hooks that were registered later.
    """
    stock = type(module)
    if stock not in _subclasses:
        _subclasses[stock] = type(stock.__name__, (stock,), {"__module__": stock.__module__})
    module.__class__ = _subclasses[stock]


def restore_class(module: nn.Module) -> None:
    """Undo `make_subclassed`."""
    stock = type(module).__mro__[1]
    if _subclasses.get(stock) is type(module):
        module.__class__ = stock


_subclasses: dict[type[nn.Module], type[nn.Module]] = {}


def _change_class(module: nn.Module, to: type[nn.Module]) -> None:
    """Set the class; no instance attribute keeps calling the old one's forward."""
    wrapped = _is_class_forward(_wrapped_forward(module), module)
    if _is_class_forward(module.__dict__.get("forward"), module):
        del module.__dict__["forward"]
    module.__class__ = to
    if wrapped:
        module.__dict__["_old_forward"] = types.MethodType(to.forward, module)
