"""Models in this process as subjects of `faststeer conform`: faststeer's patch, and plain hooks.

faststeer conform --module benchmarks.conform.local_models:patched_demo --coefficient 4
faststeer conform --module benchmarks.conform.local_models:hooked_demo --coefficient 4
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import faststeer
from faststeer import SteeringVector
from faststeer.data.batches import left_padded
from faststeer.data.chat import chat_text
from faststeer.diagnostics.conform import Answer, Ask, RefusedError, Reply, Setting
from faststeer.models import load
from faststeer.models.decoders import layers_of

_LIKELIEST = 5
_EARLY = range(16)


class LocalModel(ABC):
    """A model of transformers that answers requests of one moment as one batch of `generate`."""

    name: str
    kinds: tuple[str, ...]
    coefficients = True
    has_fresh = True  # nothing is kept from one call to the next
    without: Mapping[str, str] = {"streaming": "generate streams what it would return"}

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    @abstractmethod
    def steered(self, settings: Sequence[Setting | None]) -> AbstractContextManager[None]:
        """Return a context in which each sequence of a batch has its own steering."""

    def render(self, message: str) -> str | None:
        """Return the prompt of a message; None without a chat template."""
        if getattr(self.tokenizer, "chat_template", None) is None:
            return None
        return chat_text(message, self.tokenizer)

    @torch.no_grad()
    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """Answer all requests in one batch; a sampled one comes alone."""
        rows = [ask for ask in asks for _ in range(ask.n)]
        prompts = [self._ids(ask) for ask in rows]
        batch = left_padded(prompts, 0, torch.device("cpu"))
        longest = batch.ids.shape[1]
        seeds = {ask.seed for ask in rows}
        if len(seeds) > 1:
            raise RefusedError("one batch is either greedy or sampled")
        sampling: dict[str, Any] = {"do_sample": False}
        if (seed := seeds.pop()) is not None:
            torch.manual_seed(seed)
            sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        tokens = max(ask.tokens for ask in rows)
        with self.steered([ask.setting for ask in rows]):
            output = self.model.generate(
                batch.ids,
                attention_mask=batch.mask,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
                **sampling,
            )
        logprobs = torch.stack(output.logits, 1).float().log_softmax(-1)
        answers = [
            self._answer(own[longest:], values).first(ask.tokens)
            for own, values, ask in zip(output.sequences, logprobs, rows, strict=True)
        ]
        replies, at = [], 0
        for ask in asks:
            request = {"prompt": ask.prompt, "setting": str(ask.setting), "tokens": ask.tokens}
            own = tuple(answers[at : at + ask.n])
            replies.append(Reply(own, request, len(prompts[at]), 0))
            at += ask.n
        return replies

    def _ids(self, ask: Ask) -> list[int]:
        text = self.render(ask.prompt) if ask.chat else ask.prompt
        if text is None:
            raise RefusedError("the tokenizer has no chat template")
        return list(self.tokenizer(text, add_special_tokens=not ask.chat)["input_ids"])

    def _answer(self, ids: Tensor, logprobs: Tensor) -> Answer:
        tokens = [self.tokenizer.decode([int(own)]) for own in ids]
        listed = []
        for chosen, values in zip(ids, logprobs, strict=True):
            top = values.topk(_LIKELIEST)
            pairs = zip([*top.indices, chosen], [*top.values, values[chosen]], strict=True)
            listed.append({self.tokenizer.decode([int(at)]): float(own) for at, own in pairs})
        return Answer("".join(tokens), tuple(tokens), tuple(listed))


class PatchedModel(LocalModel):
    """A model under `faststeer.patch`, with a row per sequence."""

    name = "faststeer.patch"
    kinds = ("steered", "other", "prompt", "early", "last_layer", "wrong")

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, vectors: Mapping[str, SteeringVector]
    ) -> None:
        """Patch a model for good. `vectors`: "steered", "other" and "last_layer"."""
        super().__init__(model, tokenizer)
        self._patched = faststeer.patch(model)
        scopes: dict[str, Any] = {"prompt": "prompt", "early": _EARLY}
        for kind in self.kinds[:-1]:
            vector = vectors.get(kind, vectors["steered"])
            self._patched.steer(vector, 0.0, name=kind, positions=scopes.get(kind, "all"))

    @contextmanager
    def steered(self, settings: Sequence[Setting | None]) -> Any:
        try:
            rows = self._patched.rows(
                [{} if own is None else {own.kind: own.coefficient} for own in settings]
            )
        except (KeyError, ValueError) as error:
            raise RefusedError(str(error)) from error
        with rows:
            yield


class HookedModel(LocalModel):
    """A model with a forward hook per decoder layer that adds a vector per sequence."""

    name = "forward hooks"
    kinds = ("steered", "other", "last_layer")

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, vectors: Mapping[str, SteeringVector]
    ) -> None:
        """Prepare a model. `vectors`: "steered", "other" and "last_layer"."""
        super().__init__(model, tokenizer)
        self._vectors = vectors

    @contextmanager
    def steered(self, settings: Sequence[Setting | None]) -> Any:
        with ExitStack() as stack:
            for at, layer in enumerate(layers_of(self.model)):
                added = torch.stack([self._added(own, at) for own in settings])[:, None]
                if added.any():
                    stack.callback(layer.register_forward_hook(_adder(added)).remove)
            yield

    def _added(self, setting: Setting | None, layer: int) -> Tensor:
        zeros = torch.zeros(self.model.config.hidden_size)
        if setting is None:
            return zeros
        return setting.coefficient * self._vectors[setting.kind].directions.get(layer, zeros)


def _adder(added: Tensor) -> Any:
    def add(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + added, *output[1:])
        return output + added

    return add


def random_vectors(hidden: int, layers: int, norm: float = 8.0) -> dict[str, SteeringVector]:
    """Return vectors of random directions: two in the middle third, one at the last layer."""
    generator = torch.Generator().manual_seed(0)
    middle = range(layers // 3, max(layers // 3 + 1, 2 * layers // 3))

    def made(name: str, where: Sequence[int], own_norm: float) -> SteeringVector:
        drawn = {layer: torch.randn(hidden, generator=generator) for layer in where}
        return SteeringVector(name, {at: own / own.norm() * own_norm for at, own in drawn.items()})

    return {
        "steered": made("one", middle, norm),
        "other": made("two", middle, norm),
        "last_layer": made("last", [layers - 1], 8 * norm),
    }


def patched_demo() -> PatchedModel:
    """Return the demo's model under `faststeer.patch`."""
    demo = load("demo")
    return PatchedModel(demo.model, demo.tokenizer, _demo_vectors(demo.model))


def hooked_demo() -> HookedModel:
    """Return the demo's model with hooks."""
    demo = load("demo")
    return HookedModel(demo.model, demo.tokenizer, _demo_vectors(demo.model))


def _demo_vectors(model: PreTrainedModel) -> dict[str, SteeringVector]:
    return random_vectors(model.config.hidden_size, model.config.num_hidden_layers)
