"""Where a model's residual stream is added up: found by what a dummy run calls, not by names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from faststeer.vectors.sites import Site


@dataclass
class Found:
    """What steers at each site that this process has: a norm, or what returns the stream itself."""

    norms: dict[Site, nn.Module] = field(default_factory=dict)
    outputs: dict[Site, nn.Module] = field(default_factory=dict)
    first: int = 0  # the layers that this process has
    last: int = 0

    def sites(self) -> set[Site]:
        """Return all sites that can be steered here."""
        return set(self.norms) | set(self.outputs)


@dataclass
class _Event:
    """A call in the order of the forward pass: of a norm with a residual, or a layer's return."""

    module: nn.Module
    layer: int | None  # for a layer's return
    tensors: tuple[Tensor, ...]  # a norm's hidden states and residual, a layer's results


def decoder_layers(model: nn.Module, count: int) -> tuple[str, Sequence[nn.Module]]:
    """Return name and modules of the list of decoder layers.

    Raises:
        ValueError: none or several lists of that many modules.
    """
    lists = [
        (name, own)
        for name, own in model.named_modules()
        if isinstance(own, nn.ModuleList) and len(own) == count
    ]
    # An encoder's list of as many layers is outside the language model.
    named = [own for own in lists if own[0].rpartition(".")[2] in ("layers", "h", "blocks")]
    found = named if len(lists) > 1 else lists
    if len(found) != 1:
        raise ValueError(
            f"faststeer looks for one list of {count} decoder layers in {type(model).__name__} and "
            f"finds {len(found)}: {', '.join(name for name, _ in lists) or 'none'}"
        )
    return found[0][0], list(found[0][1])


def find_sites(
    layers: Sequence[nn.Module],
    is_norm: Callable[[nn.Module], bool],
    norms: Sequence[nn.Module],
    embedding: nn.Module | None,
    hidden_size: int,
    run: Callable[[], Any],
) -> Found:
    """Run the model once, and return the module that steers at each site.

    Args:
        layers: all decoder layers, those of other processes (pipeline stages) among them.
        is_norm: whether the fused op computes what this module does.
        norms: the modules to watch.
        embedding: what returns ``resid_pre`` of layer 0, where it is known.
        hidden_size: H.
        run: runs the model on a few tokens, eagerly.

    Raises:
        ValueError: a residual stream of another form than those that are known.
    """
    events: list[_Event] = []
    started: list[int] = []

    def norm_called(
        module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], result: Any
    ) -> None:
        given = (*arguments, *named.values())
        tensors = tuple(own for own in given if isinstance(own, Tensor))
        if len(tensors) == 2 and isinstance(result, tuple):
            events.append(_Event(module, None, tensors))

    def layer_returned(number: int) -> Any:
        def hook(module: nn.Module, _: Any, result: Any) -> None:
            own = result if isinstance(result, tuple) else (result,)
            events.append(_Event(module, number, own))

        return hook

    with ExitStack() as stack:
        for module in norms:
            handle = module.register_forward_hook(norm_called, with_kwargs=True)
            stack.callback(handle.remove)
        for number, layer in enumerate(layers):
            stack.callback(layer.register_forward_hook(layer_returned(number)).remove)
            stack.callback(
                layer.register_forward_pre_hook(lambda *_, n=number: started.append(n)).remove
            )
        run()
    if not started:
        raise ValueError("no decoder layer ran in the dummy run of faststeer")
    found = Found(first=min(started), last=max(started))
    if started != list(range(found.first, found.last + 1)):
        raise ValueError(f"decoder layers ran in the order {started}; faststeer expects each once")
    _read_events(found, events, is_norm, hidden_size)
    if embedding is not None and found.first == 0:
        found.outputs[Site(0, "resid_pre")] = embedding
    return found


def _read_events(
    found: Found, events: Sequence[_Event], is_norm: Callable[[nn.Module], bool], hidden_size: int
) -> None:
    layer, own = found.first, list[_Event]()
    waiting: Site | None = None  # whose sum the next norm computes
    returned: tuple[Tensor, ...] | None = None  # of which it is the sum, where that is known
    if found.first > 0:
        waiting = Site(found.first - 1, "resid_post")
    for event in events:
        if event.layer is None:
            if waiting is not None:
                same = returned is None or all(map(_is, event.tensors, returned))
                if same and is_norm(event.module):
                    found.norms[waiting] = event.module
                waiting = None
            else:
                own.append(event)
            continue
        results = event.tensors
        sizes = {tuple(r.shape) if isinstance(r, Tensor) else None for r in results}
        if len(results) > 2 or len(sizes) != 1 or None in sizes or len(next(iter(sizes))) != 2:
            raise ValueError(
                f"layer {layer}, a {type(event.module).__name__}, returns {len(results)} results "
                f"of shapes {[getattr(r, 'shape', type(r).__name__) for r in results]}: faststeer "
                "steers one residual stream, as one tensor or as what is added and the residual"
            )
        if results[0].shape[1] != hidden_size:
            raise ValueError(
                f"layer {layer}, a {type(event.module).__name__}, returns {results[0].shape[1]} "
                f"numbers a token, not {hidden_size}: several residual streams are not supported"
            )
        if len(results) == 1:
            found.outputs[Site(layer, "resid_post")] = event.module
        else:
            waiting, returned = Site(layer, "resid_post"), results
        if len(own) == 1 and is_norm(own[0].module):
            found.norms[Site(layer, "resid_mid")] = own[0].module
        layer, own = layer + 1, []


def _is(one: Tensor, other: Tensor) -> bool:
    return one is other


def missing_sites(found: Found, wanted: Sequence[Site], last_of_all: int) -> list[Site]:
    """Return the sites that should be here, by their layers, and were not found.

    Args:
        found: of this process.
        wanted: of all processes.
        last_of_all: the model's last layer.
    """
    first = found.first - 1 if found.first else 0  # its sum is computed by this process
    missing = []
    for site in wanted:
        here = first <= site.layer <= found.last
        if site.kind == "resid_post":
            # The last one's sum is computed by the next process, unless there is none.
            here = here and (site.layer < found.last or found.last == last_of_all)
            here = here or (site in found.outputs)
        else:
            here = found.first <= site.layer <= found.last
        if here and site not in found.sites():
            missing.append(site)
    return missing


def watched(model: nn.Module) -> list[nn.Module]:
    """Return the modules without children, among which the norms are."""
    return [own for own in model.modules() if not any(True for _ in own.children())]


def eager(model: nn.Module) -> ExitStack:
    """Return a context in which vLLM's compiled modules run as they are."""
    stack = ExitStack()
    compiled: Any
    for compiled in model.modules():
        if getattr(compiled, "do_not_compile", True) is False:
            stack.callback(setattr, compiled, "do_not_compile", False)
            compiled.do_not_compile = True
    return stack
