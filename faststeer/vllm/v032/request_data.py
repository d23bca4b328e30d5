"""What the requests of vLLM 0.32 hold for faststeer."""

from __future__ import annotations

from typing import Any

from faststeer.vllm.request_checks import CHECKED_KEY


def terms_of(params: Any) -> list[Any] | None:
    """Return the checked terms of sampling parameters; None without any."""
    extra_args = getattr(params, "extra_args", None)
    return extra_args.get(CHECKED_KEY) if extra_args else None


def arguments_of(new_request: Any) -> tuple[dict[str, Any] | None, int]:
    """Return the arguments of a request that comes to a worker, and the length of its prompt."""
    # An answer so far is in `prefill_token_ids`, which is not the prompt.
    tokens, embeds = new_request.prompt_token_ids, new_request.prompt_embeds
    extra_args = getattr(new_request.sampling_params, "extra_args", None)
    return extra_args, len(tokens if tokens is not None else embeds)
