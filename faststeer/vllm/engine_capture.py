"""Moments of the residual stream over the prompts, or the answers, of a run of vLLM's engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor
from vllm import SamplingParams

from faststeer.extraction.moments import Moments
from faststeer.vectors.arguments import chosen_layers
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.position_range import NAMED_POSITIONS, position_range
from faststeer.vllm.captured_tokens import CAPTURE_KEY, CaptureRequest
from faststeer.vllm.configuration import KEY
from faststeer.vllm.request_checks import NO_CAPTURE
from faststeer.vllm.statistics import places_for

Steering = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class EngineFacts:
    """What an engine reports of itself and of its statistics.

    `computes_ahead` names the option by which it computes tokens that answers may not come to hold.
    """

    layers: list[int]
    groups: int
    longest: int
    hidden_size: int
    num_layers: int
    model: str
    dtype: str
    computes_ahead: str | None

    @classmethod
    def of(cls, llm: Any) -> EngineFacts:
        """Return the facts of an engine. Raises ValueError where it captures nothing."""
        facts = cls(**llm.collective_rpc("faststeer_capture_facts")[0])
        if not facts.layers:
            raise ValueError(NO_CAPTURE)
        return facts

    @property
    def places(self) -> int:
        """How many norms the engine holds at a time."""
        return places_for(self.groups, self.longest)

    def chosen(self, layers: str | int | Sequence[int]) -> list[int]:
        """Return the layers to read, "all" being those that the engine captures.

        Raises:
            ValueError: a layer that the model lacks, or that the engine does not capture.
        """
        if isinstance(layers, str) and layers == "all":
            return self.layers
        chosen = chosen_layers(layers, self.num_layers)
        if missing := [layer for layer in chosen if layer not in self.layers]:
            raise ValueError(
                f"this engine captures layers {self.layers}, not {missing}; start it with them in "
                f'additional_config {{"{KEY}": {{"capture": [...]}}}}'
            )
        return chosen


def capture(
    llm: Any,
    prompts: Any,
    *,
    layers: str | int | Sequence[int] = "all",
    positions: str | range | slice = "all",
    sampling_params: SamplingParams | None = None,
    steering: Steering | None = None,
    **unknown: NoReturn,
) -> dict[int, Moments]:
    """Run prompts and return the moments of the residual stream, without storing activations.

    The engine counts tokens inside its own forward passes, each position once: cached blocks are
    not read, and what is computed again after preemption is not counted again. Ordinary requests
    that run at the same time are not counted. Steering is included, as in `faststeer.capture`,
    whose moments these are.

    Args:
        llm: a `vllm.LLM`, started with the layers to read: ``additional_config={"faststeer":
            {"capture": [11, 12]}}``.
        prompts: what its `generate` takes, or lists of token ids.
        layers: 0-based decoder layers, read at ``resid_post``; "all" that it captures.
        positions: which tokens: "all", "last" of the prompt, "generated", "prompt", or a range or
            slice, which count from the prompt's end where negative.
        sampling_params: generate answers, whose tokens count too; those of the prompts alone by
            default. The last token of an answer is not computed, so it does not count.
        steering: terms of every request, as ``extra_args={"faststeer": steering}``.
        unknown: nothing; other keywords are refused.

    Returns:
        layer -> `Moments` of one group, on the CPU.

    Raises:
        ValueError: an engine that does not capture these layers; answers of an engine with
            speculative decoding or asynchronous scheduling, which compute tokens that the answers
            do not come to hold; invalid positions or parameters; activations that are not finite.
        RuntimeError: the engine counted other tokens than the prompts and answers have.
    """
    refuse_unknown("capture", unknown, "layers")
    facts = EngineFacts.of(llm)
    chosen = facts.chosen(layers)
    if not isinstance(positions, (str, range, slice)):
        raise ValueError(f"positions is {positions!r}; expected a name, a range or a slice")
    where = position_range(positions)
    if sampling_params is None and where == NAMED_POSITIONS["generated"]:
        raise ValueError("positions 'generated' needs sampling_params, with which to generate")
    if sampling_params is not None:
        _require_countable(sampling_params, facts)
    given = _as_prompts(prompts)
    asked = [
        CaptureRequest(serial, 0, where, prompt_only=sampling_params is None)
        for serial in range(len(given))
    ]
    outputs = run(llm, given, asked, steering, sampling_params)
    expected = sum(_counted(own, request) for own, request in zip(outputs, asked, strict=True))
    found = read_state(llm, facts, 1)
    return {layer: _moments(found[layer], expected, layer) for layer in chosen}


def run(
    llm: Any,
    prompts: Sequence[Any],
    asked: Sequence[CaptureRequest],
    steering: Steering | None = None,
    sampling_params: SamplingParams | None = None,
) -> list[Any]:
    """Run prompts from empty statistics, each with what it asks for. Returns their outputs."""
    base = sampling_params or SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)
    extra_args = dict(base.extra_args or {})
    if steering is not None:
        if KEY in extra_args:
            raise ValueError("steering is given twice: by steering, and in sampling_params")
        extra_args[KEY] = list(steering)
    params = []
    for request in asked:
        own = base.clone()
        own.skip_reading_prefix_cache = True
        own.extra_args = {**extra_args, CAPTURE_KEY: request}
        params.append(own)
    llm.collective_rpc("faststeer_capture_reset")
    outputs: list[Any] = llm.generate(prompts, params, use_tqdm=False)
    return outputs


@dataclass(frozen=True)
class LayerState:
    """Statistics of a layer: `count` ``[G]``, `mean` and `m2` ``[G, H]``, `norms` ``[P]``."""

    count: Tensor
    mean: Tensor
    m2: Tensor
    norms: Tensor


def read_state(llm: Any, facts: EngineFacts, groups: int, norms: int = 0) -> dict[int, LayerState]:
    """Return the statistics of all layers that the engine captures.

    Tensor-parallel processes hold equal copies, of which the first is taken; pipeline stages hold
    layers of their own.
    """
    found: dict[int, LayerState] = {}
    for state in llm.collective_rpc("faststeer_capture_state", args=(groups, norms)):
        for layer, (count, mean, m2, own_norms) in state.items():
            if int(layer) not in found:
                found[int(layer)] = LayerState(
                    torch.tensor(count, dtype=torch.int64),
                    _tensor(mean, torch.float64).view(groups, facts.hidden_size),
                    _tensor(m2, torch.float64).view(groups, facts.hidden_size),
                    _tensor(own_norms, torch.float32),
                )
    return found


def require_count(found: Tensor, expected: Tensor, layer: int) -> None:
    """Raise RuntimeError where tokens were counted that should not be, or not counted."""
    if not torch.equal(found, expected):
        raise RuntimeError(
            f"layer {layer}: the engine counted {found.tolist()} tokens, and the texts have "
            f"{expected.tolist()}; part of its work did not pass through the counted modules"
        )


def _tensor(data: bytes, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _moments(state: LayerState, expected: int, layer: int) -> Moments:
    require_count(state.count, torch.tensor([expected]), layer)
    moments = Moments(state.mean.shape[1])
    try:
        moments.load_state_dict({"count": state.count, "mean": state.mean, "m2": state.m2})
    except ValueError as error:
        raise ValueError(f"layer {layer} has activations that are not finite: {error}") from None
    return moments


def _counted(output: Any, request: CaptureRequest) -> int:
    """Return how many tokens of an answered request count."""
    prompt = len(output.prompt_token_ids)
    computed = prompt + len(output.outputs[0].token_ids) - 1  # the last one is only sampled
    return sum(max(0, min(stop, computed) - start) for start, stop in request.spans(prompt))


def _require_countable(params: SamplingParams, facts: EngineFacts) -> None:
    if facts.computes_ahead is not None:
        raise ValueError(
            f"answers cannot be captured with {facts.computes_ahead}: tokens are computed that an "
            "answer does not come to hold. Start the engine without, or capture texts that end in "
            "the answers, as prompts"
        )
    if params.n != 1:
        raise ValueError(
            f"sampling_params has n={params.n}; the prompt would count {params.n} times"
        )
    if params.stop:
        raise ValueError(
            "sampling_params has stop strings, which are found after further tokens may have been "
            "computed; give stop_token_ids"
        )


def _as_prompts(prompts: Any) -> list[Any]:
    """Return prompts as a list of what `generate` takes. Raises ValueError for none."""
    single = isinstance(prompts, (str, Mapping))
    if single or (isinstance(prompts, Sequence) and prompts and isinstance(prompts[0], int)):
        prompts = [prompts]
    given = [{"prompt_token_ids": own} if isinstance(own, list) else own for own in list(prompts)]
    if not given:
        raise ValueError("got no prompts; at least one is needed")
    return given
