"""Calls that are wrapped while a model is patched: `generate`, and the decoder itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from faststeer.steering.forward_context import ForwardContext
from faststeer.steering.markers import After
from faststeer.steering.plan import Plan
from faststeer.steering.scopes import Scope
from faststeer.steering.thread_guard import ThreadGuard
from faststeer.steering.token_positions import PromptLayout

_IDS = "input_ids"
_call: Callable[..., Any] = nn.Module._call_impl


class GenerateWatch:
    """Wraps a model's `generate` so that its prompts are known; undone by `restore`."""

    def __init__(self, plan: Plan, model: Any) -> None:
        """Replace ``model.generate`` on this one model."""
        self.plan = plan
        self.model = model
        self.own = model.__dict__.get("generate")  # another wrapper
        self.generate: Callable[..., Any] = model.generate
        # The order of arguments given by position: a model may have a generate of its own.
        self.order = tuple(inspect.signature(self.generate).parameters)
        model.__dict__["generate"] = self

    def restore(self) -> None:
        """Undo what the constructor did."""
        if self.model.__dict__.get("generate") is self:
            del self.model.__dict__["generate"]
            if self.own is not None:
                self.model.__dict__["generate"] = self.own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's own `generate` with its prompts known."""
        forward = self.plan.forward
        with forward.guard.generating() as nested, forward.fresh_decisions(nested):
            prompts, unknown = forward.prompts, forward.unknown_prompts
            if forward.may_need_tokens or forward.watchers:
                named = dict(zip(self.order, args, strict=False)) | kwargs
                if forward.may_need_tokens:
                    _reject_guidance_scale(self.model, named)
                prompts, unknown = None, _why_unknown(self.model, named)
                if unknown is None:
                    prompts = _of_generate(self.model, named, self.plan.tables.device)
                    _look_up_markers(prompts, forward.scopes)
            with forward.with_prompts(prompts, unknown):
                found = self.generate(*args, **kwargs)
            if prompts is not None:
                _warn_of_absent_markers(prompts, forward)
            return found


def _reject_guidance_scale(model: Any, named: Mapping[str, Any]) -> None:
    scale = _setting(model, named, "guidance_scale")
    if scale not in (None, 1):
        raise ValueError(
            f"guidance_scale={scale} calls the model with other prompts than those of generate; "
            "positions= and when= cannot tell them apart: steer all positions, or do without it"
        )


def _setting(model: Any, named: Mapping[str, Any], name: str) -> Any:
    """Return an argument of `generate`, wherever it was given."""
    own, config = named.get("generation_config"), model.generation_config
    return _given(named.get(name), getattr(own, name, None), getattr(config, name, None))


def _why_unknown(model: Any, named: Mapping[str, Any]) -> str | None:
    """Return what to do where `generate` makes the prompt itself; None where it is given."""
    if getattr(model.config, "is_encoder_decoder", False):
        return (
            f"the decoder's prompt is made by the generate of a {type(model).__name__}, an "
            "encoder-decoder, so that positions= and when= do not know its length: set "
            "patched.prompt_lengths to the tokens of each decoder prompt (1 for a start token "
            "alone), or steer all positions"
        )
    if _given(_ids(model, named), named.get("inputs_embeds")) is not None:
        return None
    others = ", ".join(name for name in named if name != "generation_config") or "nothing"
    return (
        "positions= and when= have to know the prompt, and generate was called without input_ids "
        f"or inputs_embeds (with {others}), so that it makes the prompt itself: give input_ids (of "
        "a start token, say), or steer all positions"
    )


def _ids(model: Any, named: Mapping[str, Any]) -> Any:
    """Return the ids of the prompt; `inputs` may be pixels, a main input of other models."""
    text = getattr(model, "main_input_name", _IDS) == _IDS
    return _given(named.get("inputs") if text else None, named.get(_IDS))


def _of_generate(model: Any, named: Mapping[str, Any], device: torch.device) -> PromptLayout:
    ids, embeds = _ids(model, named), named.get("inputs_embeds")
    # Where both are there, the prompt is the embeddings.
    given, ids = (ids, ids) if embeds is None else (embeds, None)
    mask = named.get("attention_mask")
    if mask is None:
        mask = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        # As generate itself infers a mask where none is given.
        pad, ends = (_setting(model, named, name) for name in ("pad_token_id", "eos_token_id"))
        if ids is not None and pad is not None and pad not in _listed(ends):
            mask = ids != pad
    if ids is not None:
        # With a past, the ids may be only what is new; the mask is of the whole conversation.
        ids = ids.to(device) if ids.shape == mask.shape else None
    return PromptLayout.masked(mask.to(device), ids).simplified()


def _look_up_markers(prompts: PromptLayout, scopes: Sequence[Scope | None]) -> None:
    """Find every marker now: the compiled forwards of a `generate` have no text to look in."""
    if prompts.ids is None:
        return
    for scope in scopes:
        for part in () if scope is None else scope.parts():
            if isinstance(part, After) and part.key not in prompts.ends:
                part.look_up(prompts)


def _warn_of_absent_markers(prompts: PromptLayout, forward: ForwardContext) -> None:
    """Warn where neither a prompt nor its answer holds what steering was to follow."""
    for marker in forward.scope_columns.needed_markers:
        marker.warn_of_absence(prompts, forward.memory.last(marker.key))


def _given(*choices: Any) -> Any:
    return next((choice for choice in choices if choice is not None), None)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class CallCounter:
    """Wraps a module's ``_call_impl``: each call is a forward, until it ends or fails.

    Hooks run within that call, and do not see failures.
    """

    def __init__(self, module: nn.Module, guard: ThreadGuard, ended: Callable[[], None]) -> None:
        """Replace the method on this one module; `ended` is called after each forward."""
        self.module = module
        self.ended = ended
        self.guard = guard
        module.__dict__["_call_impl"] = self

    def restore(self) -> None:
        """Undo what the constructor did."""
        del self.module.__dict__["_call_impl"]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module. Graphs are not counted: they keep nothing between steps."""
        if torch.compiler.is_compiling():
            return _call(self.module, *args, **kwargs)
        self.guard.begin()
        try:
            return _call(self.module, *args, **kwargs)
        finally:
            self.ended()
            self.guard.end()
