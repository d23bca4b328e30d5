"""Every extraction method against float64 over stored activations, by numpy or scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from residual_streams import row_error
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from tiny import ByteTokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

import faststeer
from faststeer.extraction.methods.components import CentredComponent, UncentredComponent

WORDS = ["yes", "no", "perhaps", "certainly", "never", "always", "in May"]
PAIRS = [
    (f"{word} {WORDS[n % 5]} {n}: good{'!' * (n % 3)}", f"{word} {WORDS[n % 3]} {n}: bad")
    for n, word in enumerate(WORDS * 5)
]


@pytest.fixture
def stored(tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer) -> list[Any]:
    """Return float64 activations ``[N, L, H]`` of the positive and of the negative texts."""
    return [
        faststeer.activations(tiny_model, byte_tokenizer, texts, progress=False).double().numpy()
        for texts in zip(*PAIRS, strict=True)
    ]


def extract(model: Any, tokenizer: Any, method: str, **given: Any) -> Tensor:
    given = given or {"pairs": PAIRS}
    vector = faststeer.extract(model, tokenizer, method=method, progress=False, **given)
    assert vector.metadata["method"] == method
    return torch.stack([vector.directions[layer] for layer in vector.layers])


def cosines(found: Tensor, wanted: Any) -> Tensor:
    return torch.cosine_similarity(found.double(), torch.as_tensor(wanted).double())


def test_the_document_method_is_the_difference_of_means_over_last_tokens(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, stored: list[Any]
) -> None:
    positive, negative = zip(*PAIRS, strict=True)
    wanted = torch.from_numpy(stored[0].mean(0) - stored[1][:20].mean(0))
    for method in ("mean_difference", "mean_centring"):
        sets = {"positive": positive, "negative": negative[:20]}
        found = extract(tiny_model, byte_tokenizer, method, **sets)
        assert row_error(found, wanted) < 1e-5


REPENG: dict[str, Callable[[Any, Any], Any]] = {
    "pca_diff": lambda positive, negative: positive - negative,
    "pca_center": lambda positive, negative: np.concatenate(
        [positive - (positive + negative) / 2, negative - (positive + negative) / 2]
    ),
}


@pytest.mark.parametrize("method", REPENG)
@pytest.mark.parametrize("turned", [False, True])
def test_components_are_those_of_scikit_learn_and_point_to_positive(
    tiny_model: LlamaForCausalLM,
    byte_tokenizer: ByteTokenizer,
    stored: list[Any],
    method: str,
    turned: bool,
) -> None:
    pairs = [pair[::-1] for pair in PAIRS] if turned else PAIRS
    positive, negative = reversed(stored) if turned else stored
    found = extract(tiny_model, byte_tokenizer, method, pairs=pairs)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4), rtol=1e-6, atol=0)
    for layer in range(4):
        rows = REPENG[method](positive[:, layer], negative[:, layer])
        component = PCA(1, svd_solver="full").fit(rows).components_
        assert cosines(found[[layer]], component).abs() > 0.9999
        assert np.sign((positive - negative)[:, layer] @ found[layer].double().numpy()).sum() > 0


@pytest.mark.parametrize("kind", [CentredComponent, UncentredComponent])
@pytest.mark.parametrize("pairs", [16, 17, 100])
def test_kept_differences_and_their_second_moment_give_one_component(
    kind: type[CentredComponent], pairs: int
) -> None:
    """Up to 2 H differences are stored; beyond that only their second moment."""
    draw = torch.Generator().manual_seed(pairs)
    scale = torch.linspace(1, 3, 8) * 30
    differences = torch.randn(pairs, 8, generator=draw) * scale + torch.linspace(900, 1100, 8)
    statistic = kind(8, torch.device("cpu"))
    for part in differences.split(3):
        rows = torch.stack([part, torch.zeros_like(part)], 1).flatten(0, 1)
        statistic.update(rows, torch.tensor([0, 1] * len(part)))
    assert (statistic.scatter is None) == (pairs <= 16)
    about = differences.double() - (differences.double().mean(0) if kind.centred else 0)
    wanted = np.linalg.svd(about.numpy())[2][0]
    found = statistic.direction()
    assert abs(float(cosines(found[None], wanted[None]))) > 1 - 1e-9
    assert found @ differences.double().mean(0) > 0
    kept = [statistic.kept, *statistic.pending]
    assert sum(map(len, kept)) <= 16


def test_a_probe_is_scikit_learn_s_normal_and_points_to_positive(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, stored: list[Any]
) -> None:
    found = extract(tiny_model, byte_tokenizer, "logistic_probe")
    rows = np.concatenate(stored)
    truth = np.repeat([1, 0], len(PAIRS))
    for layer in range(4):
        own = rows[:, layer] - rows[:, layer].mean(0)
        own /= np.sqrt((own**2).mean())
        normal = LogisticRegression(max_iter=1000).fit(own, truth).coef_
        assert cosines(found[[layer]], normal) > 0.9999
        assert np.mean((own @ found[layer].double().numpy() > 0) == truth) > 0.9
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4), rtol=1e-6, atol=0)


def test_permuted_means_have_the_components_of_the_means_in_another_order(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, stored: list[Any]
) -> None:
    found = extract(tiny_model, byte_tokenizer, "permuted_means")
    means = torch.from_numpy(np.stack([side.mean(0) for side in stored]))
    plain = means[0] - means[1]
    # Sums and their spread survive any order; the direction does not.
    torch.testing.assert_close(found.double().sum(1), plain.sum(1), rtol=0, atol=1e-4)
    spread = ((means - means.mean(2, keepdim=True)) ** 2).sum((0, 2)).sqrt()
    assert (cosines(found, plain).abs() < 0.5).all()
    about = found.double() - found.double().mean(1, keepdim=True)
    assert (about.norm(dim=1) / spread - 1).abs().max() < 0.3
    assert torch.equal(found, extract(tiny_model, byte_tokenizer, "permuted_means"))
