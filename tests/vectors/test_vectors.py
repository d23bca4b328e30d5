from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from faststeer import SteeringVector


def vector(name: str = "a", site: str = "resid_post", **directions: list[float]) -> SteeringVector:
    """vector("a", _3=[1.0]) has a direction at layer 3."""
    tensors = {int(layer[1:]): torch.tensor(values) for layer, values in directions.items()}
    return SteeringVector(name, tensors, site, {"model": "m"})


def values(of: SteeringVector) -> dict[int, list[float]]:
    return {layer: direction.tolist() for layer, direction in of.directions.items()}


def test_a_sum_takes_a_layer_that_one_lacks_as_zero() -> None:
    total = vector("a", _1=[1.0, 2.0], _2=[3.0, 4.0]) + vector("b", _2=[10.0, 20.0], _5=[5.0, 6.0])
    assert values(total) == {1: [1.0, 2.0], 2: [13.0, 24.0], 5: [5.0, 6.0]}
    assert total.name == "a+b"


def test_a_difference_takes_a_layer_that_one_lacks_as_zero() -> None:
    difference = vector("a", _1=[1.0], _2=[3.0]) - vector("b", _2=[10.0], _5=[5.0])
    assert values(difference) == {1: [1.0], 2: [-7.0], 5: [-5.0]}
    assert difference.name == "a-b"


def test_scaling_multiplies_every_layer_and_keeps_name_site_and_metadata() -> None:
    original = vector("a", "resid_mid", _1=[1.0, -2.0], _2=[4.0, 8.0])
    for scaled, factor in [
        (original * 2, 2.0),
        (2 * original, 2.0),
        (original / 4, 0.25),
        (-original, -1.0),
        (original * torch.tensor(0.5), 0.5),
    ]:
        assert values(scaled) == {1: [factor, -2 * factor], 2: [4 * factor, 8 * factor]}
        assert (scaled.name, scaled.site, scaled.metadata) == ("a", "resid_mid", {"model": "m"})


@pytest.mark.parametrize(
    "other",
    [vector("big", _1=[1.0, 2.0]), vector("mid", "resid_mid", _1=[1.0])],
    ids=lambda v: v.name,
)
def test_combining_mismatched_vectors_is_an_error_that_names_both(other: SteeringVector) -> None:
    facts = (
        rf"'a' \(resid_post, hidden size 1\) and '{other.name}' "
        rf"\({other.site}, {other.hidden_size}\) cannot be combined"
    )
    with pytest.raises(ValueError, match=facts):
        vector("a", _1=[1.0]) + other
    with pytest.raises(ValueError, match=facts):
        vector("a", _1=[1.0]) - other


@pytest.mark.parametrize("other", [1.0, torch.ones(1), "b", None], ids=str)
def test_only_vectors_can_be_added(other: Any) -> None:
    with pytest.raises(TypeError):
        vector("a", _1=[1.0]) + other


def test_a_product_of_two_vectors_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="got a SteeringVector; expected a tensor"):
        vector("a", _1=[1.0]) * vector("b", _1=[1.0])


@pytest.mark.parametrize("divisor", [0, 0.0, 1e-45])
def test_a_division_that_overflows_is_an_error(divisor: float) -> None:
    with pytest.raises(ValueError, match="'a', layer 1: 2 of 2 values are NaN or infinite"):
        vector("a", _1=[1.0, 2.0]) / divisor


def test_select_keeps_the_layers_asked_for_and_names_one_that_is_missing() -> None:
    whole = vector("a", _1=[1.0], _2=[2.0], _5=[5.0])
    assert values(whole.select([5, 1])) == {1: [1.0], 5: [5.0]}
    with pytest.raises(ValueError, match=r"'a' has no direction for layer 3; it has \[1, 2, 5\]"):
        whole.select([1, 3])
    with pytest.raises(ValueError, match="'a' has no directions"):
        whole.select([])


def test_at_takes_one_layer_and_moves_it() -> None:
    whole = vector("a", _1=[1.0], _2=[2.0])
    assert values(whole.at(2)) == {2: [2.0]}
    assert values(whole.at(2, to=0)) == {0: [2.0]}
    with pytest.raises(ValueError, match="no direction for layer 7"):
        whole.at(7, to=1)


def test_normalized_keeps_directions_and_makes_every_norm_one() -> None:
    unit = vector("a", _1=[3.0, 4.0], _2=[0.0, -2.0]).normalized()
    assert values(unit) == {1: [pytest.approx(0.6), pytest.approx(0.8)], 2: [0.0, -1.0]}
    assert unit.norms() == {1: pytest.approx(1.0), 2: 1.0}
    with pytest.raises(ValueError, match="'a', layer 2: a zero cannot be normalised"):
        vector("a", _1=[1.0], _2=[0.0]).normalized()


def test_norms_are_euclidean_per_layer() -> None:
    assert vector("a", _1=[3.0, 4.0], _7=[5.0, 12.0]).norms() == {1: 5.0, 7: 13.0}


def test_layers_are_ascending_whatever_the_order_given() -> None:
    assert vector("a", _9=[1.0], _0=[1.0], _4=[1.0]).layers == [0, 4, 9]


def test_layers_may_be_numpy_integers() -> None:
    own = SteeringVector("a", {layer: torch.ones(1) for layer in np.arange(2)})
    assert [type(layer) for layer in own.layers] == [int, int]


def test_later_changes_of_the_source_have_no_effect() -> None:
    source = torch.tensor([1.0, 2.0])
    directions, metadata = {3: source}, {"model": "m"}
    own = SteeringVector("a", directions, metadata=metadata)
    source.zero_()
    directions[4] = source
    metadata["model"] = "other"
    assert values(own) == {3: [1.0, 2.0]}
    assert own.metadata == {"model": "m"}


def test_a_result_shares_no_memory_with_its_source() -> None:
    original = vector("a", _1=[1.0, 2.0])
    for derived in (original.select([1]), original.at(1, to=3), original * 1.0, original / 1):
        next(iter(derived.directions.values())).zero_()
    (original + vector("b", _2=[1.0, 1.0])).directions[1].zero_()
    assert values(original) == {1: [1.0, 2.0]}


@pytest.mark.parametrize(
    "source",
    [
        torch.tensor([1.0, 2.0], dtype=torch.float64),
        torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        torch.tensor([1, 2]),
        torch.tensor([1.0, 9.0, 2.0])[::2],
        torch.nn.Parameter(torch.tensor([1.0, 2.0])),
    ],
    ids=["float64", "bfloat16", "int64", "sliced", "parameter"],
)
def test_directions_are_float32_on_the_cpu_without_gradient(source: Tensor) -> None:
    own = SteeringVector("a", {0: source}).directions[0]
    assert (own.dtype, own.device.type, own.requires_grad) == (torch.float32, "cpu", False)
    assert own.is_contiguous()
    assert own.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ({}, "vector 'a' has no directions; give {layer: tensor}"),
        ({-1: torch.ones(2)}, "vector 'a', layer -1: layers count from 0"),
        ({2: torch.ones(1, 2)}, "vector 'a', layer 2: shape (1, 2); expected a direction [H]"),
        ({2: torch.tensor(1.0)}, "vector 'a', layer 2: shape (); expected a direction [H]"),
        ({2: torch.ones(0)}, "vector 'a', layer 2: shape (0,); expected a direction [H]"),
        (
            {1: torch.ones(2), 2: torch.tensor([1.0, float("nan"), 3.0])},
            "vector 'a', layer 2: 1 of 3 values are NaN or infinite",
        ),
        (
            {2: torch.tensor([float("-inf"), float("inf")])},
            "vector 'a', layer 2: 2 of 2 values are NaN or infinite",
        ),
        (
            {2: torch.tensor([1e39, 1.0], dtype=torch.float64)},  # larger than float32 can hold
            "vector 'a', layer 2: 1 of 2 values are NaN or infinite",
        ),
        (
            {1: torch.ones(2), 2: torch.ones(3), 3: torch.ones(2)},
            "vector 'a' has directions of sizes [2, 3]; expected one",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_directions_are_refused(directions: dict[int, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SteeringVector("a", directions)


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ({"1": torch.ones(2)}, "vector 'a', layer '1': a layer is an int, not a str"),
        ({0.5: torch.ones(2)}, "vector 'a', layer 0.5: a layer is an int, not a float"),
        ({1: [1.0, 2.0]}, "vector 'a', layer 1: got a list; expected a tensor [H]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_directions_of_the_wrong_type_are_refused(directions: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        SteeringVector("a", directions)


def test_an_unknown_site_is_refused_with_the_known_ones() -> None:
    known = "site 'mlp_out' is unknown; expected one of resid_pre, resid_mid, resid_post"
    with pytest.raises(ValueError, match=known):
        SteeringVector("a", {0: torch.ones(1)}, "mlp_out")


def test_a_repr_shows_layers_as_ranges_and_the_stated_use_but_no_values() -> None:
    shown = repr(vector("a", _1=[1.0] * 600, _2=[2.0] * 600))
    assert shown == "SteeringVector('a', resid_post, hidden size 600, layers 1–2)"
    several = vector("a", _0=[1.0], _3=[1.0], _4=[1.0], _5=[1.0], _9=[1.0])
    stated = several.for_use(mode="project", positions="generated")
    assert repr(stated).endswith("layers 0, 3–5, 9, mode project, positions generated)")
    assert repr(several.select([9])).endswith("layer 9)")
    tuned = several.for_use(layers=[3, 9], coefficient=-0.681)
    assert repr(tuned).endswith("layers 0, 3–5, 9; steers at 3, 9 with -0.681)")


def test_a_vector_is_shown_escaped_and_small_in_a_notebook() -> None:
    page = vector("<b>a</b>", _1=[1.0] * 600)
    page = replace(page, metadata={"model": "<script>"})._repr_html_()
    assert "SteeringVector &#x27;&lt;b&gt;a&lt;/b&gt;&#x27;" in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "<b>" not in page
    assert len(page) < 1000


def test_a_vector_is_a_mapping_of_layers_to_directions() -> None:
    own = vector("a", _1=[1.0, 2.0], _4=[3.0, 4.0])
    assert own[4].tolist() == [3.0, 4.0]
    assert (len(own), list(own), 4 in own, 2 in own) == (2, [1, 4], True, False)
    with pytest.raises(KeyError, match="'a' has no direction for layer 2; it has layers 1, 4"):
        own[2]


def test_a_numpy_number_multiplies_a_vector() -> None:
    product = np.float64(0.5) * vector("a", _1=[2.0, 4.0])
    assert isinstance(product, SteeringVector)
    assert product[1].tolist() == [1.0, 2.0]
