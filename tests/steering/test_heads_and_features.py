"""Vectors from attention heads and from features do what hooks at those places do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from by_token import Amount, column_to_position, greedy, numbered, padded, steered_by_token
from tiny_families import MORE
from torch import Tensor, nn
from unknown_decoders import make

import faststeer
from faststeer import SteeringVector

IDS, MASK = padded((5, 9, 7))
OUTPUT = {"output_scores": True, "return_dict_in_generate": True}
HEADS = [(1, 0), (1, 3), (2, 2)]
FUSED = ("Llama", "Qwen2")


def directions(size: int, scale: float = 1.0) -> dict[tuple[int, int], Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {head: scale * torch.randn(size, generator=generator) for head in HEADS}


@contextmanager
def hooked_heads(
    decoder: Any, added: Mapping[tuple[int, int], Tensor], amount: Amount, mask: Tensor
) -> Iterator[None]:
    """Add ``amount * direction`` to heads' outputs, token by token, before `o_proj`."""
    columns = [numbered(line) for line in mask.tolist()]
    lengths = [sum(line) for line in mask.tolist()]

    def before(layer: int, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        outputs = args[0].clone()
        for line, column in np.ndindex(*outputs.shape[:2]):
            position = column_to_position(columns[line], lengths[line], column)
            if position is None:
                continue
            for (own, head), direction in added.items():
                if own == layer:
                    there = slice(head * len(direction), (head + 1) * len(direction))
                    outputs[line, column, there] += (
                        amount(line, position, lengths[line]) * direction
                    )
        return (outputs, *args[1:])

    with ExitStack() as stack:
        for layer in {layer for layer, _ in added}:
            projection = decoder.layers[layer].self_attn.o_proj
            hook = projection.register_forward_pre_hook(partial(before, layer))
            stack.callback(hook.remove)
        yield


def logits(model: Any, mask: Tensor = MASK) -> Tensor:
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        found = model(IDS, attention_mask=mask, position_ids=position_ids).logits
    return found[mask.bool()]


def close(found: Tensor, expected: Tensor, stock: Tensor) -> bool:
    """Return whether they agree to 1e-6 of the effect, and rounding of the logits themselves."""
    effect = (expected - stock).abs().max()
    assert effect > 0.1
    rounding = 4 * torch.finfo(torch.float32).eps * expected.abs().max()
    return bool((found - expected).abs().max() <= 1e-6 * effect + rounding)


ROWS: list[tuple[str, list[float], Amount]] = [
    ("all", [1.0, 0.0, -2.0], lambda line, position, length: (1.0, 0.0, -2.0)[line]),
    ("generated", [1.0, 1.0, 1.0], lambda line, position, length: float(position >= length)),
]


@pytest.fixture(params=FUSED)
def model(request: pytest.FixtureRequest, make_tiny: Callable[..., Any]) -> Any:
    return make_tiny(family=request.param, **MORE[request.param])


def test_a_vector_of_heads_is_a_hook_in_front_of_the_projection(model) -> None:
    added = directions(16)
    vector = SteeringVector.from_heads(model, added, name="truth")
    assert (vector.name, vector.site, vector.layers) == ("truth", "resid_mid", [1, 2])
    assert vector.metadata["heads"] == {"1": [0, 3], "2": [2]}
    stock = logits(model)
    with hooked_heads(model.model, added, lambda *at: 1.5, MASK):
        expected = logits(model)
    with faststeer.patch(model) as patched:
        patched.steer(vector, 1.5)
        assert close(logits(model), expected, stock)


@pytest.mark.parametrize(("positions", "row", "amount"), ROWS, ids=[name for name, *_ in ROWS])
def test_heads_are_steered_in_rows_and_in_a_cached_generate(model, positions, row, amount) -> None:
    added = directions(16)
    vector = SteeringVector.from_heads(model, added)
    stock, _ = greedy(model, IDS, MASK)
    with hooked_heads(model.model, added, amount, MASK):
        tokens, scores = greedy(model, IDS, MASK, use_cache=False)
    assert not torch.equal(tokens, stock)
    with faststeer.patch(model) as patched:
        patched.steer(vector, positions=positions)
        with patched.rows([{"heads": own} if own else {} for own in row]):
            found, own_scores = greedy(model, IDS, MASK)
    assert torch.equal(found, tokens)
    assert (own_scores - scores).abs().max() < 2e-6 * scores.abs().max()


def test_grouped_heads_of_another_size_have_their_own_columns(make_tiny) -> None:
    model = make_tiny(family="Qwen3", head_dim=24)
    added = directions(24)
    stock = logits(model)
    with hooked_heads(model.model, added, lambda *at: 1.0, MASK):
        expected = logits(model)
    with faststeer.patch(model) as patched:
        patched.steer(SteeringVector.from_heads(model, added))
        assert close(logits(model), expected, stock)


@pytest.mark.parametrize("family", ["Gemma2", "Gemma3"])
def test_a_norm_behind_attention_is_refused(make_tiny, family) -> None:
    model = make_tiny(family=family, **MORE[family])
    with pytest.raises(ValueError, match=f"attention of a {family}.*Model passes a norm before"):
        SteeringVector.from_heads(model, directions(16))


@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX"])
def test_heads_of_an_unknown_family_are_refused(name) -> None:
    with pytest.raises(ValueError, match=f"a {name}.* has no decoder of a known family"):
        SteeringVector.from_heads(make(name), directions(16))


BAD: list[tuple[type[Exception], Any, str]] = [
    (ValueError, {}, "no heads were given"),
    (ValueError, {(4, 0): torch.ones(16)}, "layer 4 is out of range: the model has 0 to 3"),
    (ValueError, {(0, 4): torch.ones(16)}, "head 4 is out of range: layer 0 has 0 to 3"),
    (ValueError, {(0, -1): torch.ones(16)}, "head -1 is out of range"),
    (ValueError, {(0, 1): torch.ones(15)}, r"layer 0, head 1: the direction has shape \(15,\)"),
    (ValueError, {(0, 1): torch.full((16,), torch.inf)}, "64 of 64 values are NaN or infinite"),
    (TypeError, {(0, 1): [1.0] * 16}, "layer 0, head 1: got a list; expected a tensor"),
    (TypeError, {0: torch.ones(16)}, r"got the key 0; expected \(layer, head\)"),
]


@pytest.mark.parametrize(("kind", "given", "message"), BAD, ids=[own[2][:30] for own in BAD])
def test_heads_that_the_model_lacks_are_refused(tiny_model, kind, given, message) -> None:
    with pytest.raises(kind, match=message):
        SteeringVector.from_heads(tiny_model, given)


def test_a_projection_that_is_no_plain_linear_is_refused(tiny_model) -> None:
    peft = pytest.importorskip("peft")
    with pytest.raises(TypeError, match=r"from_heads\(\) got a str; expected a transformers"):
        SteeringVector.from_heads("model", directions(16))
    adapted = peft.get_peft_model(tiny_model, peft.LoraConfig(r=2, target_modules=["o_proj"]))
    with pytest.raises(ValueError, match="layer 1 has a Linear as o_proj, not a plain Linear"):
        SteeringVector.from_heads(adapted, directions(16))


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Gemma3", "GPT2"])
@pytest.mark.filterwarnings("ignore::faststeer.FaststeerWarning")
def test_a_feature_steers_as_a_hook_that_adds_its_row(name, make_tiny, tmp_path) -> None:
    model = make(name) if name == "GPT2" else make_tiny(family=name, **MORE[name])
    decoder = model.blocks if name == "GPT2" else model.model
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(12, 64, generator=generator)
    np.savez(tmp_path / "params.npz", W_dec=rows, W_enc=rows.T, threshold=np.ones(12, np.float32))
    vector = SteeringVector.from_sae(tmp_path, 7, layer=1, site="resid_post")
    added = SteeringVector("row", {1: rows[7]})

    def amount(line: int, position: int, length: int) -> float:
        return (1.0, 0.0, -2.0)[line] * (position >= length)

    with steered_by_token(decoder, [(added, amount)], MASK):
        tokens, scores = greedy(model, IDS, MASK, use_cache=False)
    stock, stock_scores = greedy(model, IDS, MASK)
    assert not torch.equal(tokens, stock)
    _, without_cache = greedy(model, IDS, MASK, use_cache=False)
    rounding = (stock_scores - without_cache).abs().max()  # what a cache alone changes
    effect = (scores - without_cache).abs().max()
    with faststeer.patch(model) as patched:
        patched.steer(vector, name="f", positions="generated")
        with patched.rows([{"f": 1.0}, {}, {"f": -2.0}]):
            found, own_scores = greedy(model, IDS, MASK)
        wide = SteeringVector("wide", {1: torch.ones(63)})
        with pytest.raises(ValueError, match="has hidden size 63, but the model's is 64"):
            patched.steer(wide)
    assert torch.equal(found, tokens)
    assert rounding < 4e-6 * effect
    assert (own_scores - scores).abs().max() <= 1e-6 * effect + rounding
