"""Attention heads are chosen by probes as in inference-time intervention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny_families import MORE
from torch import Tensor

import faststeer
from faststeer import SteeringVector

PAIRS = [(f"{n} birds sing{'!' * (n % 4)}", f"{n} wolves howl{'?' * (n % 3)}") for n in range(20)]


def outputs_of(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """Return the heads' outputs at each text's last token ``[N, L, heads, d]``, text by text."""
    found: list[Tensor] = []
    layers = model.model.layers
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda module, args: found.append(args[0][0, -1].double().unflatten(0, (4, -1)))
        )
        for layer in layers
    ]
    with torch.no_grad():
        for text in texts:
            model(torch.tensor([tokenizer(text)["input_ids"]]))
    for hook in hooks:
        hook.remove()
    return torch.stack(found).unflatten(0, (len(texts), len(layers)))


@pytest.fixture(scope="module")
def positive_and_negative() -> tuple[list[str], list[str]]:
    positive, negative = zip(*PAIRS, strict=True)
    return list(positive), list(negative)


@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
@pytest.mark.parametrize("kind", ["mean_difference", "probe"])
def test_directions_and_accuracies_are_those_of_the_paper(
    make_tiny, byte_tokenizer, positive_and_negative, family, kind
) -> None:
    model = make_tiny(family=family, **MORE[family])
    found = faststeer.probe_heads(
        model, byte_tokenizer, PAIRS, top=5, direction=kind, batch_size=6, progress=False
    )
    sides = [outputs_of(model, byte_tokenizer, texts) for texts in positive_and_negative]
    assert len(found.accuracies) == 16
    assert list(found.directions) == list(found.accuracies)[:5]
    ranked = list(found.accuracies.values())
    assert ranked == sorted(ranked, reverse=True)
    draw = torch.randperm(20, generator=torch.Generator().manual_seed(0))[:4]
    held = np.isin(np.arange(20), draw.numpy())
    held = np.concatenate([held, held])
    labels = np.arange(40) < 20
    for (layer, head), accuracy in found.accuracies.items():
        own = torch.cat([side[:, layer, head] for side in sides])
        centre = own[~held].mean(0)
        scaled = ((own - centre) / (own[~held] - centre).square().mean().sqrt()).numpy()
        probe = LogisticRegression(max_iter=1000).fit(scaled[~held], labels[~held])
        assert accuracy == pytest.approx(probe.score(scaled[held], labels[held]))
        if (layer, head) not in found.directions:
            continue
        theta = torch.from_numpy(probe.coef_[0])
        if kind == "mean_difference":
            theta = own[:20].mean(0) - own[20:].mean(0)
        theta = theta / theta.norm()
        expected = theta * (own @ theta).std(correction=0)
        difference = (found.directions[layer, head] - expected).norm()
        assert difference < 1e-3 * expected.norm()
        gap = own[:20].mean(0) - own[20:].mean(0)
        assert gap @ found.directions[layer, head].double() > 0


def test_what_was_chosen_becomes_a_vector_of_those_heads(tiny_model, byte_tokenizer) -> None:
    found = faststeer.probe_heads(tiny_model, byte_tokenizer, PAIRS, top=3, progress=False)
    vector = SteeringVector.from_heads(tiny_model, found.directions)
    heads = {(int(at), head) for at, own in vector.metadata["heads"].items() for head in own}
    assert heads == set(found.directions)
    positive, negative = zip(*PAIRS, strict=True)
    sets = {"positive": positive, "negative": negative}
    found = faststeer.probe_heads(
        tiny_model, byte_tokenizer, **sets, layers=[2], top=2, progress=False
    )
    assert {layer for layer, _ in found.accuracies} == {2}


BAD: list[tuple[type[Exception], dict[str, Any], str]] = [
    (ValueError, {"top": 0}, "top is 0; these layers have 16 heads"),
    (ValueError, {"top": 17}, "top is 17; these layers have 16 heads"),
    (ValueError, {"top": 5, "layers": 1}, "top is 5; these layers have 4 heads"),
    (ValueError, {"layers": 9}, "layer 9 is out of range"),
    (ValueError, {"direction": "pca"}, "direction 'pca' is unknown; expected one of mean_diff"),
    (ValueError, {"held_out": 1.0}, "held_out is 1.0; expected a share between 0 and 1"),
    (ValueError, {"pairs": PAIRS[:1]}, "got 1 pairs; at least 2 are needed"),
    (ValueError, {"pairs": None}, "give either pairs, or positive and negative texts"),
    (TypeError, {"read_token": "all"}, "read_token is a str; heads are read at one token"),
    (TypeError, {"layer": 1}, r"unexpected keyword argument 'layer'; did you mean layers"),
]


@pytest.mark.parametrize(("kind", "given", "message"), BAD, ids=[own[2][:30] for own in BAD])
def test_bad_arguments_are_refused(tiny_model, byte_tokenizer, kind, given, message) -> None:
    given = {"pairs": PAIRS, "top": 4, "progress": False} | given
    with pytest.raises(kind, match=message):
        faststeer.probe_heads(tiny_model, byte_tokenizer, **given)


def test_a_family_without_readable_heads_is_refused(make_tiny, byte_tokenizer) -> None:
    model = make_tiny(family="Gemma3", **MORE["Gemma3"])
    with pytest.raises(ValueError, match="passes a norm before it is added"):
        faststeer.probe_heads(model, byte_tokenizer, PAIRS, progress=False)
