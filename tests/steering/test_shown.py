"""What handles, rows and conditions show at the prompt and in a notebook."""

import pytest
import torch
from plain_hooks import random_vector

import faststeer

V, W = random_vector("v", range(4)), random_vector("<w>", range(4), seed=1)


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle:
        yield handle


def odd(positions, lengths):
    return positions % 2 == 1


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ({}, "'v': add 2 at layers 0–3 (resid_post), positions all"),
        ({"layers": 2, "name": "n"}, "'n': add 2 at layer 2 (resid_post), positions all"),
        (
            {"layers": {1: 1.0, 3: 0.5}},
            "'v': add 2 at layers 1, 3 (resid_post), factors {1: 1.0, 3: 0.5}, positions all",
        ),
        (
            {"mode": "clamp", "layers": 1, "keep_norm": True},
            "'v': clamp 2 at layer 1 (resid_post), positions all, keep_norm",
        ),
        ({"layers": 1, "positions": "last"}, "'v': add 2 at layer 1 (resid_post), positions last"),
        (
            {"layers": 1, "positions": range(-3, 0)},
            "'v': add 2 at layer 1 (resid_post), positions -3:0",
        ),
        (
            {"layers": 1, "positions": [0, 3, -1]},
            "'v': add 2 at layer 1 (resid_post), positions last, 0:1, 3:4",
        ),
        (
            {"layers": 1, "positions": faststeer.after([7, 8])},
            "'v': add 2 at layer 1 (resid_post), positions after the ids [7, 8]",
        ),
        (
            {"layers": 1, "positions": odd},
            "'v': add 2 at layer 1 (resid_post), positions those of odd",
        ),
        (
            {"layers": 1, "positions": torch.ones(2, 5).bool()},
            "'v': add 2 at layer 1 (resid_post), positions under a mask [2, 5]",
        ),
        (
            {"layers": 3, "when": faststeer.when(W, layer=1, below=0.25)},
            "'v': add 2 at layer 3 (resid_post), positions all, "
            "when cosine with '<w>' at layer 1 (resid_post) < 0.25",
        ),
    ],
)
def test_a_handle_shows_what_it_does(how, shown, patched) -> None:
    assert repr(patched.steer(V, 2.0, **how)) == f"Handle({shown})"


def test_a_handle_shows_its_coefficient_as_it_is_and_that_it_was_removed(patched) -> None:
    handle = patched.steer(V, 2.0, layers=1)
    handle.coefficient = -0.5
    assert "add -0.5 at" in repr(handle)
    assert repr(handle) in repr(patched)
    handle.remove()
    assert repr(handle).endswith("positions all, removed)")
    assert "removed" in handle._repr_html_()


def test_an_ablation_shows_all_of_its_sites(patched) -> None:
    handle = patched.ablate(V, layer=1)
    sites = "(resid_mid and resid_post and resid_pre)"
    assert f"'v': project 1 at layers 0–3 {sites}, positions all" in repr(handle)


def test_a_condition_shows_what_it_compares() -> None:
    shown = repr(faststeer.when(V, layer=2, above=0.1))
    assert shown == "when(cosine with 'v' at layer 2 (resid_post) > 0.1)"


def test_rows_show_their_coefficients_and_whether_they_steer(patched) -> None:
    patched.steer(V, layers=1)
    rows = patched.rows([{"v": 2.0}, {}, {"v": {1: 0.5}}])
    inside = "rows([{'v': 2.0}, {}, {'v': {1: 0.5}}]"
    assert repr(rows) == f"{inside}, not active: enter the block)"
    with rows:
        assert repr(rows) == f"{inside})"
        for _ in range(20):
            rows.append({})
        assert repr(rows).endswith(", {}, and 15 more])")
        assert "<th style='text-align:left'>row 1</th>" in rows._repr_html_()
        assert "unsteered" in rows._repr_html_()


def test_tables_for_notebooks_are_escaped(patched) -> None:
    condition = faststeer.when(W, layer=1, above=0.1)
    handle = patched.steer(V, layers=3, name="<i>n</i>", when=condition)
    with patched.rows([{"<i>n</i>": 1.0}]) as rows:
        for shown in (handle, condition, rows):
            page = shown._repr_html_()
            assert page.startswith("<table>")
            assert "&lt;" in page
            assert "<i>" not in page
            assert "<w>" not in page
