"""`generate` with a compiled step, and actions during it."""

from __future__ import annotations

from transformers import CompileConfig, LogitsProcessor


class At(LogitsProcessor):
    """Logits processor that runs an action at a given number of tokens."""

    def __init__(self, **actions) -> None:
        self.actions = {int(key[1:]): action for key, action in actions.items()}

    def __call__(self, input_ids, scores):
        self.actions.get(input_ids.shape[1], lambda: None)()
        return scores


COMPILED = {
    "cache_implementation": "static",
    "compile_config": CompileConfig(fullgraph=True, backend="eager", mode=None, dynamic=False),
}
COMPILED["compile_config"]._compile_all_devices = True
