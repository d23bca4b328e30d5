"""One engine, whose next step runs with the plugin, without it, or with hooks in its place.

Two engines in one process bias each other by more than the plugin costs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

FIRST, ABSENT, LAST = MODES = ("compiled first", "without the plugin", "compiled last")


class Toggled:
    """What both engines below share: the steered norms, and their classes with and without."""

    def __init__(self, llm: Any) -> None:
        """Find the steered norms of an engine that has started with vectors at every layer."""
        self.worker = llm.llm_engine.model_executor.driver_worker.worker
        self.runner = self.worker.model_runner
        self.model: nn.Module = self.runner.get_model()
        self.steering = self.runner.faststeer
        self.norms = [self.steering.found.norms[site] for site in self.steering.sites]
        steered = [type(norm) for norm in self.norms]
        stock = [own.__bases__[1] for own in steered]
        self.classes = {FIRST: steered, ABSENT: stock, LAST: steered}

    def swap_classes(self, mode: str) -> None:
        """Give the norms their class of this mode."""
        for norm, own in zip(self.norms, self.classes[mode], strict=True):
            norm.__class__ = own


class CompiledEngine(Toggled):
    """An engine whose model is compiled with the plugin, without, and with it again.

    What is compiled later may find its memory otherwise, so that the mean of the first and the last
    is free of the order.
    """

    def __init__(self, llm: Any) -> None:
        """Compile the model twice more; the engine has compiled it with the plugin."""
        super().__init__(llm)
        self.compiled: Any = next(
            own for own in self.model.modules() if hasattr(own, "aot_compiled_fn")
        )
        self.graphs = {FIRST: self.compiled.aot_compiled_fn}
        for mode in (ABSENT, LAST):
            self.swap_classes(mode)
            self.graphs[mode] = self._compile(mode)
        if len({id(own) for own in self.graphs.values()}) < len(MODES):
            raise RuntimeError("the model was not compiled again")

    def _compile(self, mode: str) -> Any:
        from vllm import envs
        from vllm.config import set_current_vllm_config

        self.compiled.aot_compiled_fn, self.compiled.compiled = None, False
        envs.environment_variables["FASTSTEER_GRAPHS"] = lambda: mode  # not the cached graph
        with set_current_vllm_config(self.worker.vllm_config):
            self.runner.warming_up_model()
        return self.compiled.aot_compiled_fn

    def use(self, mode: str) -> None:
        """Let the next steps run with the plugin, or without."""
        self.compiled.aot_compiled_fn = self.graphs[mode]
        self.runner.faststeer = None if mode == ABSENT else self.steering


class EagerEngine(Toggled):
    """An engine without compilation; `hooks` takes the plugin's place by a hook at every layer."""

    def __init__(self, llm: Any, directions: dict[int, Tensor]) -> None:
        """Add hooks that do nothing until they are used; ``directions`` are layer -> ``[H]``."""
        super().__init__(llm)
        self.hooks = self._hooked = False
        layers = self.runner.get_model().model.layers
        for layer, direction in directions.items():
            layers[layer].register_forward_hook(self._hook(direction))

    def _hook(self, direction: Tensor) -> Any:
        def add(layer: Any, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            if not self._hooked:
                return output
            hidden, residual = output
            return hidden + direction, residual

        return add

    def use(self, mode: str) -> None:
        """Let the next steps run with the plugin (with hooks where `hooks` is set), or without."""
        present = mode != ABSENT
        self._hooked = present and self.hooks
        with_plugin = present and not self.hooks
        self.swap_classes(FIRST if with_plugin else ABSENT)
        self.runner.faststeer = self.steering if with_plugin else None
