"""Runs of a model, stock with hooks or patched: a forward pass, or a generate with given tokens."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from every_model.calls import Prompts
from every_model.hooks import Edits, hooked


def logits_of(model: Any, prompts: Prompts, edits: Edits = ()) -> Tensor:
    """Return the logits ``[B, P, V]`` of one forward without a past."""
    given: dict[str, Any] = {"input_ids": prompts.given}
    if not prompts.mask.all():
        given["attention_mask"] = prompts.mask
    torch.manual_seed(0)  # for models that are random at every call, such as Reformer's hashes
    with torch.no_grad(), hooked(model, prompts, edits):
        found: Tensor = model(**given).logits
    return found


def step_logits(
    model: Any,
    prompts: Prompts,
    continuation: Tensor,
    edits: Edits = (),
    use_cache: bool = True,
) -> Tensor:
    """Return the logits ``[B, N, V]`` of N steps of `generate`.

    `continuation` ``[B, N]`` holds the token taken at each step, whatever the logits, so that runs
    can be compared to the last step.
    """
    width = prompts.ids.shape[1]

    def force(ids: Tensor, scores: Tensor) -> Tensor:
        chosen = continuation[:, ids.shape[1] - width, None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)

    torch.manual_seed(0)  # for models that are random at every call, such as Reformer's hashes
    with torch.no_grad(), hooked(model, prompts, edits):
        found = model.generate(
            input_ids=prompts.given,
            attention_mask=prompts.mask,
            max_new_tokens=continuation.shape[1],
            do_sample=False,
            logits_processor=[force],
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
            use_cache=use_cache,
        )
    return torch.stack(found.logits, 1)


def run_of_blocks(model: nn.Module, prompts: Prompts, count: int) -> dict[str, list[nn.Module]]:
    """Return lists of `count` blocks that a forward calls, by path; outermost lists only."""
    lists = {
        path: list(module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and all(any(True for _ in block.children()) for block in module)
    }
    called: set[nn.Module] = set()
    with ExitStack() as stack:
        for module in {module for blocks in lists.values() for module in blocks}:
            hook = module.register_forward_hook(lambda m, a, o: called.add(m))
            stack.callback(hook.remove)
        logits_of(model, prompts)
    ran = {path: blocks for path, blocks in lists.items() if called & set(blocks)}
    return {
        path: blocks
        for path, blocks in ran.items()
        if not any(path.startswith(f"{outer}.") for outer in ran)
    }
