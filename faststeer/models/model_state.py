"""A digest of everything in a decoder that its activations depend on: the key of cached ones.

Every element of every weight counts, unlike in `fingerprint`, which recognises a model. All bytes
are summed and only the sums are hashed: 13 GB/s on one core against 1.8 of SHA-256 alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from itertools import chain
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faststeer.models.patch_mark import MARK

_WORDS = 4093  # columns of the sums; a prime, so that exchanged rows of a weight change columns
_WORD = 8  # bytes
_PLAIN = (type(None), bool, int, float, str)
# What changes no activations, or is counted elsewhere: reading is always in evaluation mode.
_IGNORED = {*nn.Module().__dict__, MARK, "name_or_path", "config"}
_IGNORED |= {"forward", "_old_forward", "_hf_hook"}  # these are looked at one by one
_NAMES = ("_name_or_path", "transformers_version", "architectures")  # of a configuration
_READ_ONLY_HOOKS = ("faststeer.", "transformers.utils.output_capturing")


class UnknownState(ValueError):
    """What a decoder computes depends on something that cannot be compared by its content."""


def state_digest(decoder: nn.Module) -> str:
    """Return a SHA-256 of a decoder's tensors, configuration, and the attributes of its modules.

    It is the same patched or not, and in another process. Adapters count with their scaling and
    with whether they are enabled.

    Raises:
        UnknownState: offloaded, sharded or wrapped tensors, hooks or a `forward` of other code, or
            an attribute whose content is not accessible.
    """
    digest = hashlib.sha256()
    tensors = chain(decoder.named_parameters(), decoder.named_buffers())
    for name, tensor in tensors:
        digest.update(f"{name} {tensor_digest(name, tensor)}\n".encode())
    for name, module in decoder.named_modules():
        _require_own_forward(name, module)
        facts = {
            key: value
            for key, value in vars(module).items()
            if key not in _IGNORED and not type(value).__module__.startswith("faststeer.")
        }
        line = [name, _stock_class(module), _content(facts, name, set())]
        digest.update(json.dumps(line, sort_keys=True).encode())
    digest.update(json.dumps(_configuration(decoder), sort_keys=True).encode())
    return digest.hexdigest()


def tensor_digest(name: str, tensor: Tensor) -> str:
    """Return a SHA-256 of a tensor's dtype, shape, device and content.

    Of tensors over 32 KiB the content counts by 4,093 sums of 8-byte words, modulo 2^64.

    Raises:
        UnknownState: its elements are not in this process's memory as they are.
    """
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
        raise UnknownState(f"{name} is a {type(tensor).__name__}, sharded, quantised or wrapped")
    if tensor.device.type == "meta":
        raise UnknownState(f"{name} is offloaded")
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} {tensor.device}".encode())
    content = tensor.detach().contiguous().flatten()
    if content.storage_offset() * content.element_size() % _WORD:
        content = content.clone()
    content = content.view(torch.uint8)
    summed = len(content) // (_WORD * _WORDS) * (_WORD * _WORDS)
    if summed:
        words = content[:summed].view(torch.int64).view(-1, _WORDS)
        sums = np.add.reduce(words.numpy()) if words.is_cpu else words.sum(0).cpu().numpy()
        digest.update(sums.tobytes())
    digest.update(content[summed:].cpu().numpy().tobytes())
    return digest.hexdigest()


def _require_own_forward(name: str, module: nn.Module) -> None:
    """Raise UnknownState where other code's hooks or `forward` may change what a module returns."""
    where = f"{name or 'the decoder'} ({type(module).__name__})"
    for hook in chain(module._forward_pre_hooks.values(), module._forward_hooks.values()):
        if not str(getattr(hook, "__module__", "")).startswith(_READ_ONLY_HOOKS):
            raise UnknownState(f"{where} has a forward hook of other code, {hook!r}")
    forward = module.__dict__.get("forward")
    placed = type(module.__dict__.get("_hf_hook")).__name__ == "AlignDevicesHook"
    own = getattr(forward, "__func__", None) is type(module).forward  # transformers 4.57 binds it
    if forward is not None and not placed and not own:
        raise UnknownState(f"{where} has a `forward` of its own, {forward!r}")


def _stock_class(module: nn.Module) -> str:
    """Return the class's name; of a patched module that of the class before."""
    kinds = (kind for kind in type(module).__mro__ if not kind.__module__.startswith("faststeer."))
    kind = next(kinds)
    return f"{kind.__module__}.{kind.__qualname__}"


def _configuration(decoder: nn.Module) -> Any:
    config: Any = decoder.config
    facts = config.to_dict()
    for name in _NAMES:
        facts.pop(name, None)
    chosen = ("_attn_implementation", "_experts_implementation")
    facts |= {name: getattr(config, name, None) for name in chosen}
    return _content(facts, "the configuration", set())


def _content(value: Any, where: str, around: set[int]) -> Any:
    """Return an attribute's content as JSON values. Raises UnknownState where it has none.

    `around`: the ids of the objects that hold it.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, MethodType)):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, nn.Module):  # a reference to one that is known by its own name
        return _stock_class(value)
    if isinstance(value, Tensor):
        return tensor_digest(where, value)
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.tolist()]
    if id(value) in around:
        return "an object around this one"
    parts = list(_parts(value, where))
    return [type(value).__qualname__, *(_content(p, where, around | {id(value)}) for p in parts)]


def _parts(value: Any, where: str) -> Iterator[Any]:
    """Yield what an object holds, in an order that does not depend on the process."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from (repr(key), value[key])
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (set, frozenset)):
        yield from sorted(map(repr, value))
    elif hasattr(value, "to_dict"):  # a configuration, of transformers or PEFT
        facts = value.to_dict()
        yield from _parts({k: v for k, v in facts.items() if k not in _NAMES}, where)
    elif is_dataclass(value) or hasattr(value, "__dict__"):
        yield from _parts(vars(value), where)
    else:
        raise UnknownState(f"{where} has a {type(value).__name__}, whose content is not accessible")
