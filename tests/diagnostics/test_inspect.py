"""Inspections of a vector alone, with a model and with pairs, as tables and as plots."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from inspected import PAIRS, TEXTS, steering
from residual_streams import residual_streams
from rich.console import Console
from tiny import ByteTokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

import faststeer
from faststeer import SteeringVector, diagnostics
from faststeer.diagnostics.tables import print_inspection


@pytest.fixture
def tiny_tokenizer(tiny_folder: Path):
    return AutoTokenizer.from_pretrained(tiny_folder)


def as_shown(found: diagnostics.Inspection, width: int = 400) -> str:
    console = Console(width=width)
    with console.capture() as shown:
        print_inspection(found, console)
    return shown.get()


def test_cosines_are_numpy_s_between_layers_and_between_vectors() -> None:
    one, two = steering(0, "one"), steering(1, "two", layers=(1, 3, 2))

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        x, y = a.double().numpy(), b.double().numpy()
        return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))

    rows = list(one.directions.values())
    expected = [[cosine(a, b) for b in rows] for a in rows]
    np.testing.assert_allclose(diagnostics.cosines(one), expected, atol=1e-12)
    between = diagnostics.cosines_between([one, two])
    assert list(between) == [1, 3]
    for layer, table in between.items():
        mine = cosine(one.directions[layer], two.directions[layer])
        np.testing.assert_allclose(table, [[1, mine], [mine, 1]], atol=1e-12)


def test_vectors_that_cannot_be_compared_are_refused_with_the_difference() -> None:
    between = diagnostics.cosines_between
    with pytest.raises(ValueError, match="got no vectors"):
        between([])
    with pytest.raises(ValueError, match=r"the vectors share no layer: 'a' has \[0\]; 'b' has"):
        between([steering(0, "a", (0,)), steering(0, "b", (1,))])
    with pytest.raises(ValueError, match=r"'w' \(resid_pre, 64\) cannot be compared: both"):
        between([steering(), SteeringVector("w", {0: torch.ones(64)}, "resid_pre")])
    with pytest.raises(ValueError, match="cannot be compared"):
        between([steering(), SteeringVector("w", {0: torch.ones(8)})])


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
def test_residual_norms_are_those_of_every_token_and_the_dose_is_relative_to_their_median(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer, site: str
) -> None:
    norms = diagnostics.residual_norms(tiny_model, byte_tokenizer, TEXTS, layers=[0, 1], site=site)
    streams = [residual_streams(tiny_model, byte_tokenizer(text)["input_ids"]) for text in TEXTS]
    vector = SteeringVector("v", {n: torch.full((64,), n + 1.0) for n in (0, 1)}, site)
    doses = diagnostics.relative_dose(vector, norms, -2.0)
    for layer in (0, 1):
        expected = torch.cat([stream[site][layer].norm(dim=-1) for stream in streams])
        torch.testing.assert_close(norms[layer], expected, rtol=1e-5, atol=0)
        # an even number of tokens has two in the middle: torch takes the lower
        middle = statistics.median_low(expected.tolist())
        assert doses[layer] == pytest.approx(2 * 8 * (layer + 1) / middle, rel=1e-5)


def test_norms_without_texts_and_a_layer_without_norms_are_refused(
    tiny_model: LlamaForCausalLM, byte_tokenizer: ByteTokenizer
) -> None:
    with pytest.raises(ValueError, match="got no texts; at least one is needed"):
        diagnostics.residual_norms(tiny_model, byte_tokenizer, [])
    with pytest.raises(ValueError, match="no norms are given for layer 1"):
        diagnostics.relative_dose(steering(), {0: torch.ones(1)})


def test_a_file_alone_gives_norms_and_cosines_and_lists_what_the_rest_needs() -> None:
    vector, other = steering(), steering(1, "w")
    found = diagnostics.inspect(vector, others=[other])
    assert {layer: own.norm for layer, own in found.layers.items()} == vector.norms()
    assert torch.equal(found.cosines, diagnostics.cosines(vector))
    expected = diagnostics.cosines_between([vector, other])
    assert found.between == {("v", "w"): {n: float(own[0, 1]) for n, own in expected.items()}}
    assert found.missing == [
        "dose and logit lens: these need a model",
        "separability and stability: these need pairs",
    ]


def test_vectors_of_the_same_name_are_numbered() -> None:
    found = diagnostics.inspect(steering(0), others=[steering(1), steering(2)])
    assert list(found.between) == [("v", "v-2"), ("v", "v-3"), ("v-2", "v-3")]


def test_with_a_model_and_pairs_the_results_are_those_of_the_single_functions(
    tiny_model: LlamaForCausalLM, tiny_tokenizer
) -> None:
    made = faststeer.extract(
        *(tiny_model, tiny_tokenizer, PAIRS),
        layers=[1, 2],
        method="pca_center",
        read_token=-2,
        progress=False,
    )
    found = diagnostics.inspect(
        made,
        tiny_model,
        tiny_tokenizer,
        texts=TEXTS,
        pairs=PAIRS,
        coefficient=3.0,
        progress=False,
    )
    norms = diagnostics.residual_norms(tiny_model, tiny_tokenizer, TEXTS, layers=[1, 2])
    doses = diagnostics.relative_dose(made, norms, 3.0)
    options = {"read_token": -2, "progress": False}  # as stated in the vector's metadata
    aucs = diagnostics.separability(tiny_model, tiny_tokenizer, made, PAIRS, **options)
    halves = diagnostics.halves(
        tiny_model, tiny_tokenizer, PAIRS, layers=[1, 2], method="pca_center", **options
    )
    lens = diagnostics.logit_lens(tiny_model, tiny_tokenizer, made, 5)
    for layer, own in found.layers.items():
        assert own.dose == pytest.approx(doses[layer], rel=1e-5)
        assert own.auc == aucs[layer]
        assert own.stability == pytest.approx(halves.stability()[layer], abs=1e-6)
        assert own.lens == lens[layer]
        unseen = []
        for side, half in ((0, halves.first), (1, halves.second)):
            pairs = [p for p, at in zip(PAIRS, halves.sides.tolist(), strict=True) if at != side]
            each = diagnostics.separability(tiny_model, tiny_tokenizer, half, pairs, **options)
            unseen.append(each[layer])
        assert own.held_out_auc == pytest.approx(sum(unseen) / 2)
    assert found.missing == []


def test_pairs_are_read_at_the_token_that_the_vector_s_file_states(
    tiny_model: LlamaForCausalLM, tiny_tokenizer
) -> None:
    def made(read_token: object) -> SteeringVector:
        return faststeer.extract(
            tiny_model, tiny_tokenizer, PAIRS, read_token=read_token, progress=False
        )

    def aucs(vector: SteeringVector, **options: object) -> list[float | None]:
        options |= {"texts": TEXTS, "pairs": PAIRS, "progress": False}
        found = diagnostics.inspect(vector, tiny_model, tiny_tokenizer, **options)
        return [own.auc for own in found.layers.values()]

    vector = made(range(-2, 0))
    assert aucs(vector) == aucs(vector, read_token=slice(-2, None))
    with pytest.raises(ValueError, match="cannot be restored from its metadata; give"):
        aucs(made(lambda positions, lengths: positions == lengths - 1))


def test_of_many_pairs_the_first_are_read_and_the_rest_is_reported_as_missing(
    tiny_model: LlamaForCausalLM, tiny_tokenizer
) -> None:
    class Streamed:
        def __iter__(self):
            return iter(PAIRS)

    def aucs_and_missing(pairs: object, **options: int) -> tuple[list[float | None], list[str]]:
        found = diagnostics.inspect(
            vector, tiny_model, tiny_tokenizer, texts=TEXTS, pairs=pairs, progress=False, **options
        )
        return [own.auc for own in found.layers.values()], found.missing

    vector = faststeer.extract(tiny_model, tiny_tokenizer, PAIRS, progress=False)
    expected, missing = aucs_and_missing(PAIRS[:5])
    assert missing == []
    assert aucs_and_missing(PAIRS, most_pairs=5) == (
        expected,
        ["separability and stability of 3 pairs beyond the first 5: most_pairs reads more"],
    )
    assert aucs_and_missing(Streamed(), most_pairs=5) == (
        expected,
        ["separability and stability of all pairs beyond the first 5: most_pairs reads more"],
    )
    assert aucs_and_missing(Streamed(), most_pairs=8)[1] == []
    with pytest.raises(ValueError, match="most_pairs is 0; expected at least 1"):
        aucs_and_missing(PAIRS, most_pairs=0)


def test_a_vector_of_unknown_method_is_halved_by_means_and_that_is_reported(
    tiny_model: LlamaForCausalLM, tiny_tokenizer
) -> None:
    found = diagnostics.inspect(
        steering(), tiny_model, tiny_tokenizer, texts=TEXTS, pairs=PAIRS, progress=False
    )
    assert found.missing == [
        "halves by the vector's own method (unknown): those shown are by mean_difference"
    ]


def test_what_cannot_be_inspected_is_refused_with_a_clear_error(
    tiny_model: LlamaForCausalLM, tiny_tokenizer
) -> None:
    with pytest.raises(ValueError, match="pairs and texts are read by a model; give it"):
        diagnostics.inspect(steering(), pairs=PAIRS)
    with pytest.raises(ValueError, match="a model was given without its tokenizer"):
        diagnostics.inspect(steering(), tiny_model)
    with pytest.raises(TypeError, match="pairs is an iterator"):
        diagnostics.inspect(
            steering(), tiny_model, tiny_tokenizer, pairs=iter(PAIRS), progress=False
        )


def test_a_zero_direction_is_reported_as_one_and_is_null_in_json(
    tiny_model: LlamaForCausalLM, tiny_tokenizer
) -> None:
    vector = SteeringVector("v", {0: torch.ones(64), 1: torch.zeros(64), 2: torch.ones(64)})
    found = diagnostics.inspect(vector, tiny_model, tiny_tokenizer, texts=TEXTS)
    as_json = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert as_json["cosine_between_layers"] == [[1, None, 1], [None, None, None], [1, None, 1]]
    assert as_json["layers"]["1"]["norm"] == as_json["layers"]["1"]["dose"] == 0
    assert found.missing[0].startswith("logit lens: vector 'v', layer 1: a zero cannot be")
    assert "zero" in as_shown(found)


def test_the_table_shows_every_computed_number_and_no_empty_column(
    tiny_model: LlamaForCausalLM, tiny_tokenizer
) -> None:
    found = diagnostics.inspect(
        steering(), tiny_model, tiny_tokenizer, texts=TEXTS, pairs=PAIRS, progress=False
    )
    shown = as_shown(found)
    for own in found.layers.values():
        for cell in (f"{own.norm:.4g}", f"{own.dose:.1%}", f"{own.held_out_auc:.3f}"):
            assert f" {cell} " in shown
    for heading in ("residual", "dose at +1", "held out", "halves"):
        assert f" {heading} " in shown
        assert f"{heading}: " in shown  # what it means, below the table
        assert heading not in as_shown(diagnostics.inspect(steering()))


def test_foreign_names_act_neither_on_the_terminal_nor_as_markup() -> None:
    hostile = SteeringVector("[red]\x1b[2J", {0: torch.ones(4)}, metadata={"by": "\x1b]0;x\x07"})
    found = diagnostics.inspect(hostile, others=[hostile])
    assert "\x1b" not in as_shown(found)
    assert as_shown(found).count("[red]\\x1b[2J") == 3  # the title, and both in a heading


def test_all_tables_fit_80_columns_and_no_number_is_cut(
    tiny_model: LlamaForCausalLM, tiny_tokenizer
) -> None:
    names = ["wealth-seeking-inclination", "anti-immigration", "sycophancy", "tense", "person"]
    found = diagnostics.inspect(
        steering(),
        tiny_model,
        tiny_tokenizer,
        texts=TEXTS,
        pairs=PAIRS,
        others=[steering(seed, name) for seed, name in enumerate(names, 1)],
        coefficient=-1.25,
        progress=False,
    )
    shown = as_shown(found, 80)
    assert max(map(len, shown.splitlines())) <= 80
    for own in found.layers.values():
        numbers = (f"{own.norm:.4g}", f"{own.dose:.1%}", f"{own.auc:.3f}", f"{own.stability:.3f}")
        assert all(f" {number} " in shown for number in numbers)
    assert len(found.between) == 15
    for cosines in found.between.values():
        assert all(f" {cosine:+.3f} " in shown for cosine in cosines.values())
