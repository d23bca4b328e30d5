"""Separability of positive and negative texts by a vector, against slow references."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import torch
from residual_streams import residual_streams
from sklearn.metrics import roc_auc_score
from tiny import ByteTokenizer, MakeTiny
from torch import Tensor
from transformers import LlamaForCausalLM

import faststeer
from faststeer import SteeringVector, diagnostics
from faststeer.data.jsonl import PairsFile

PAIRS = [(f"good thing {n}", f"a bad thing {n * n}") for n in range(9)]


def steering(seed: int = 0, layers: tuple[int, ...] = (1, 3)) -> SteeringVector:
    draw = torch.Generator().manual_seed(seed)
    return SteeringVector("v", {n: torch.randn(64, generator=draw) for n in layers})


def projections_one_by_one(
    model: LlamaForCausalLM, tokenizer: ByteTokenizer, vector: SteeringVector, layer: int
) -> Tensor:
    unit = (vector.directions[layer] / vector.directions[layer].norm()).double()
    rows = [
        [
            residual_streams(model, tokenizer(text)["input_ids"])["resid_post"][layer, -1].double()
            @ unit
            for text in pair
        ]
        for pair in PAIRS
    ]
    return torch.tensor(rows)


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_scikit_learn_s_including_ties(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randint(7, (50,), generator=draw).double()
    labels = torch.randint(2, (50,), generator=draw).bool()
    expected = roc_auc_score(labels.numpy(), scores.numpy())
    assert diagnostics.auc(scores[labels], scores[~labels]) == pytest.approx(expected, abs=1e-12)


def test_auc_counts_pairs_in_order_and_equal_ones_half() -> None:
    assert diagnostics.auc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])) == 1
    assert diagnostics.auc(torch.tensor([0.0]), torch.tensor([1.0, 1.0])) == 0
    assert diagnostics.auc(torch.tensor([1.0, 1.0]), torch.tensor([1.0])) == 0.5
    assert diagnostics.auc(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])) == 0.625


def test_auc_of_empty_or_nan_values_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 positive and 1 negative scores"):
        diagnostics.auc(torch.tensor([]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="a score is NaN"):
        diagnostics.auc(torch.tensor([1.0]), torch.tensor([torch.nan]))


def test_projections_are_those_of_each_text_run_alone_in_the_order_of_the_pairs(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    vectors = [steering(0), steering(1) * 100.0]
    found = diagnostics.pair_projections(
        tiny_model, byte_tokenizer, vectors, PAIRS, batch_size=4, progress=False
    )
    for own, vector in zip(found, vectors, strict=True):
        for layer in (1, 3):
            expected = projections_one_by_one(tiny_model, byte_tokenizer, vector, layer)
            torch.testing.assert_close(own[layer], expected, rtol=0, atol=1e-4)


def test_separability_is_the_auc_of_positive_against_negative_texts(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    vector = steering()
    found = diagnostics.separability(tiny_model, byte_tokenizer, vector, PAIRS, progress=False)
    for layer in (1, 3):
        each = projections_one_by_one(tiny_model, byte_tokenizer, vector, layer)
        labels = [True, False] * len(PAIRS)
        assert found[layer] == pytest.approx(roc_auc_score(labels, each.flatten().numpy()))
    turned = diagnostics.separability(tiny_model, byte_tokenizer, -vector, PAIRS, progress=False)
    assert turned == pytest.approx({layer: 1 - own for layer, own in found.items()})


def test_two_sets_of_texts_have_the_separability_of_their_pairs(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    positive, negative = zip(*PAIRS, strict=True)
    paired = diagnostics.separability(tiny_model, byte_tokenizer, steering(), PAIRS, progress=False)
    of_sets = diagnostics.separability(
        tiny_model,
        byte_tokenizer,
        steering(),
        positive=iter(positive[::-1]),
        negative=[*negative, *negative],  # every text twice: the same shares
        progress=False,
    )
    assert of_sets == pytest.approx(paired)
    with pytest.raises(ValueError, match="positive and negative texts go together"):
        diagnostics.separability(tiny_model, byte_tokenizer, steering(), positive=["a"])
    with pytest.raises(ValueError, match="read_token 'answer' is where the two texts of a pair"):
        diagnostics.separability(
            tiny_model,
            byte_tokenizer,
            steering(),
            positive=["a"],
            negative=["b"],
            read_token="answer",
        )


def test_each_pair_is_in_exactly_one_half(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    made = diagnostics.halves(tiny_model, byte_tokenizer, PAIRS, layers=[2], progress=False)
    assert made.sides.tolist().count(0) in (4, 5)
    for side, vector in ((0, made.first), (1, made.second)):
        own = [pair for pair, at in zip(PAIRS, made.sides.tolist(), strict=True) if at == side]
        alone = faststeer.extract(tiny_model, byte_tokenizer, own, layers=[2], progress=False)
        assert torch.equal(vector.directions[2], alone.directions[2])
    cosine = torch.cosine_similarity(made.first.directions[2], made.second.directions[2], dim=0)
    assert made.stability() == pytest.approx({2: float(cosine)}, abs=1e-6)


def test_the_held_out_auc_is_of_pairs_outside_the_half() -> None:
    sides = torch.tensor([0, 1, 1, 0])
    made = diagnostics.Halves(steering(), steering(), sides)
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    # The first half's vector is right on its own pairs alone, the second's on all.
    first = torch.stack([right, wrong, wrong, right])
    second = torch.stack([right, right, right, right])
    assert made.held_out_auc({3: first}, {3: second}) == {3: 0.5}


def test_the_halves_do_not_depend_on_a_periodic_order_of_the_data(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    """For example pairs from two alternating templates."""
    pairs = [("good", "bad")] * 1200
    made = diagnostics.halves(
        tiny_model, byte_tokenizer, pairs, layers=0, batch_size=400, progress=False
    )
    shares = [made.sides[n::period].double().mean() for period in (2, 3, 4) for n in range(period)]
    assert all(0.4 < share < 0.6 for share in shares)


def test_pairs_that_cannot_be_read_again_or_are_too_few_are_refused(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    with pytest.raises(TypeError, match="pairs is an iterator; they are read several times"):
        diagnostics.halves(tiny_model, byte_tokenizer, iter(PAIRS), progress=False)
    with pytest.raises(ValueError, match="got 3 pairs; halves need at least 4"):
        diagnostics.halves(tiny_model, byte_tokenizer, PAIRS[:3], progress=False)


def test_what_cannot_be_projected_is_refused_with_a_clear_error(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    project = diagnostics.pair_projections
    with pytest.raises(ValueError, match="got 0 positive and 0 negative texts"):
        project(tiny_model, byte_tokenizer, [steering()], [], progress=False)
    with pytest.raises(ValueError, match="got no vectors; at least one is needed"):
        project(tiny_model, byte_tokenizer, [], PAIRS, progress=False)
    both = [steering(), steering(layers=(1,))]
    with pytest.raises(ValueError, match="need the same site and layers"):
        project(tiny_model, byte_tokenizer, both, PAIRS, progress=False)
    small = SteeringVector("small", {1: torch.ones(8)})
    with pytest.raises(ValueError, match="hidden size 8, but the model's is 64"):
        project(tiny_model, byte_tokenizer, [small], PAIRS, progress=False)
    with pytest.raises(ValueError, match="layer 9 is out of range"):
        project(tiny_model, byte_tokenizer, [steering(layers=(9,))], PAIRS, progress=False)


def test_halves_stream_from_a_file(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    lines = [f'{{"positive": "{good}", "negative": "{bad}"}}' for good, bad in PAIRS]
    file.write_text("\n".join(lines))
    streamed = diagnostics.halves(
        tiny_model, byte_tokenizer, PairsFile(file), layers=1, progress=False
    )
    held = diagnostics.halves(tiny_model, byte_tokenizer, PAIRS, layers=1, progress=False)
    assert streamed.stability() == held.stability()


def test_a_projection_takes_no_more_memory_than_its_number(
    make_tiny: MakeTiny, byte_tokenizer: ByteTokenizer
) -> None:
    model = make_tiny(hidden=16)
    own = SteeringVector("v", {n: torch.ones(16) for n in range(4)})

    def peak(count: int) -> int:
        pairs = [(f"g{n % 7}", f"b{n % 5}") for n in range(count)]
        tracemalloc.start()  # of Python objects, without the tensors' data
        how = {"batch_size": 16, "progress": False}
        diagnostics.pair_projections(model, byte_tokenizer, [own], pairs, **how)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few = peak(256)
    assert (peak(768) - few) / (4 * 2 * 512) < 60  # bytes; a tensor per projection took 143
