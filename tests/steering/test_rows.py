"""Every sequence of a batch gets the steering of its own row and no other."""

import math

import pytest
import torch
from by_token import greedy, padded, steered_by_token
from plain_hooks import random_vector

import faststeer

# float32 logits of about 4, computed in another order: 2e-6 was observed.
CLOSE = {"rtol": 0, "atol": 1e-5}
IDS, MASK = padded((3, 7, 5, 7))
V, W = random_vector("v", [0, 2]), random_vector("w", [1, 2], seed=1, site="resid_mid")
E = random_vector("e", [0, 3], seed=2, site="resid_pre")
ROWS = [{"v": 1.5, "w": -1.0}, {}, {"w": {1: 2.0, 2: 0.5}, "e": 1.0}, {"v": {0: -2.0}}]


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        for vector in (V, W, E):
            handle.steer(vector, 0.7)
        yield handle


def logits(model):
    return model(IDS).logits


def terms_of(rows, scopes=None):
    """Return the reference's terms, one vector per layer; `scopes` as in `steered_by_token`."""
    terms = []
    for vector in (V, W, E):
        inside = (scopes or {}).get(vector.name, lambda b, p, n: True)
        for layer in vector.layers:

            def amount(b, p, n, name=vector.name, layer=layer, inside=inside):
                given = rows[b].get(name, 0.0)
                given = given.get(layer, 0.0) if isinstance(given, dict) else given
                return given * inside(b, p, n)

            terms.append((vector.select([layer]), amount))
    return terms


def test_each_sequence_gets_its_own_row_instead_of_the_shared_coefficients(
    tiny_model, patched, plain
) -> None:
    shared = logits(tiny_model)
    with patched.off():
        idle = logits(tiny_model)
    with steered_by_token(plain.model, terms_of(ROWS), torch.ones_like(MASK)):
        expected = plain(IDS).logits
    with patched.rows(ROWS) as rows:
        found = logits(tiny_model)
        assert len(rows) == 4
        assert list(rows) == ROWS
    torch.testing.assert_close(found, expected, **CLOSE)
    assert (found - shared).abs().amax((1, 2)).min() > 1000 * CLOSE["atol"]
    assert torch.equal(found[1], idle[1])  # {} is unsteered, bit for bit
    assert torch.equal(logits(tiny_model), shared)


SCOPES = {
    "v": ("generated", lambda b, p, n: p >= n),
    "w": ("all", lambda b, p, n: True),
    "e": (range(1, 9), lambda b, p, n: 1 <= p < 9),
}
WAYS = {
    "greedy": {},
    "a static cache": {"cache_implementation": "static"},
    "beams": {"num_beams": 3},
    "beams, several kept": {"num_beams": 3, "num_return_sequences": 2},
    "samples": {"do_sample": True, "num_return_sequences": 3},
    "sampled beams": {"do_sample": True, "num_beams": 2},
}


@pytest.mark.parametrize("scoped", [False, True])
@pytest.mark.parametrize("count", [4, 2])
@pytest.mark.parametrize("way", WAYS)
def test_rows_follow_their_sequences(way, count, scoped, tiny_model, patched, plain) -> None:
    """With 2 rows for 4 prompts each row covers two prompts and all their continuations."""
    if scoped:
        for vector in (V, W, E):
            patched.steer(vector, 0.7, positions=SCOPES[vector.name][0])
    given = ROWS[:3:2] if count == 2 else ROWS
    every = [given[b * count // 4] for b in range(4)]
    scopes = {name: inside for name, (_, inside) in SCOPES.items()} if scoped else None
    with steered_by_token(plain.model, terms_of(every, scopes), MASK):
        torch.manual_seed(0)
        expected = greedy(plain, IDS, MASK, use_cache=False, **WAYS[way])
    with patched.rows(given):
        torch.manual_seed(0)
        found = greedy(tiny_model, IDS, MASK, **WAYS[way])
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], **CLOSE)


def test_rows_that_do_not_divide_the_batch_are_refused_with_both_numbers(
    tiny_model, patched
) -> None:
    ran = []
    tiny_model.model.layers[0].register_forward_hook(lambda *args: ran.append(args))
    with patched.rows(ROWS[:3]):
        with pytest.raises(ValueError, match="3 rows of steering for a batch of 4 sequences"):
            logits(tiny_model)
        with pytest.raises(ValueError, match="3 rows of steering for a batch of 8 sequences"):
            tiny_model.generate(IDS, attention_mask=MASK, num_beams=2, max_new_tokens=2)
    with patched.rows([{}] * 8), pytest.raises(ValueError, match="8 rows of steering"):
        logits(tiny_model)
    assert not ran
    with patched.rows(ROWS[:3]), patched.off():
        logits(tiny_model)  # off disables steering for any batch size


def test_blocks_nest_and_restore_even_after_errors(tiny_model, patched) -> None:
    shared = logits(tiny_model)
    with patched.off():
        idle = logits(tiny_model)
    with patched.rows([{}, *ROWS[1:]]) as rows:
        with patched.rows([{"v": 1.0}]):
            inner = logits(tiny_model)
            with patched.off():
                assert torch.equal(logits(tiny_model), idle)
            rows[0] = ROWS[0]  # takes effect when the inner block exits
            assert torch.equal(logits(tiny_model), inner)
        outer = logits(tiny_model)
        with patched.rows(ROWS):
            assert torch.equal(logits(tiny_model), outer)
        with pytest.raises(KeyboardInterrupt), patched.rows([{}]):
            raise KeyboardInterrupt
        assert torch.equal(logits(tiny_model), outer)
    assert torch.equal(logits(tiny_model), shared)
    block = patched.rows(ROWS)
    with block, pytest.raises(ValueError, match="entered already"), block:
        pass
    with block:
        assert torch.equal(logits(tiny_model), outer)
        patched.clear()
        assert torch.equal(logits(tiny_model), idle)
    assert torch.equal(logits(tiny_model), idle)


def test_changed_rows_take_effect_at_the_next_step(tiny_model, patched) -> None:
    fresh = []
    changed = [ROWS[0], {"v": 3.0}, ROWS[3], {"e": 1.0}]
    for rows in (ROWS, changed):
        with patched.rows(rows):
            fresh.append(logits(tiny_model))
    block = patched.rows([*ROWS[:2], ROWS[3]])
    block.append({"w": 9.0})
    with block as rows:
        rows[1] = {"v": 3.0}
        rows[-1] = {"e": 1.0}
        assert torch.equal(logits(tiny_model), fresh[1])
        rows[1] = {}
        del rows[2]
        rows[2] = ROWS[2]
        rows.append(ROWS[3])
        assert torch.equal(logits(tiny_model), fresh[0])
        patched["v"].coefficient = 100.0  # a shared one
        assert torch.equal(logits(tiny_model), fresh[0])
        del rows[0]
        with pytest.raises(ValueError, match="3 rows"):
            logits(tiny_model)


def test_rows_follow_a_replaced_vector_and_keep_one_they_name(tiny_model, patched) -> None:
    other = random_vector("v", [1, 3], seed=9)
    with patched.rows([{"v": 2.0}, {"w": {1: 1.0}}]) as rows:
        with pytest.raises(ValueError, match="'v' is named by rows"):
            patched["v"].remove()
        with pytest.raises(ValueError, match=r"row 1, 'w': .*no direction for layer 1; "):
            patched.steer(random_vector("w", [0]), name="w")
        handle = patched.steer(other, layers={1: 1.0, 3: -1.0}, name="v")
        found = logits(tiny_model)
        patched["e"].remove()  # not in use
    patched.clear()
    patched.steer(other, 2.0, layers={1: 1.0, 3: -1.0})
    patched.steer(W, 1.0, layers=1)
    with patched.rows([{"v": 2.0}, {"w": 1.0}]):
        assert torch.equal(logits(tiny_model), found)
    assert not handle.active
    patched.clear()
    idle = logits(tiny_model)
    with pytest.raises(ValueError, match="no active vector is named 'v'; there are: none"), rows:
        pass
    assert torch.equal(logits(tiny_model), idle)


def test_bad_rows_are_refused_before_anything_changes(tiny_model, patched) -> None:
    far = faststeer.SteeringVector("far", {1: V.directions[0], 9: V.directions[0]})
    patched.steer(far, 0.0, layers=1)
    shared = logits(tiny_model)
    refusals = [
        (TypeError, "rows is a str; expected a list", "v"),
        (TypeError, "rows is a dict; expected a list", {"v": 1.0}),
        (ValueError, "rows is empty", []),
        (TypeError, "row 1 is a str; expected {name: coefficient}", [{}, "v"]),
        (TypeError, "row 0 is a NoneType", [None]),
        (ValueError, "row 1: no active vector is named 'u'; there are: 'v', 'w'", [{}, {"u": 1}]),
        (TypeError, "row 0: coefficient of 'v' is a str; expected a number", [{"v": "1"}]),
        (ValueError, "row 0: coefficient of 'v' is nan", [{"v": math.nan}]),
        (ValueError, "row 1: coefficient of 'w' is inf", [{}, {"w": {1: math.inf}}]),
        (
            ValueError,
            "row 0, 'v': .* no direction for layer 1; it has \\[0, 2\\]",
            [{"v": {1: 1.0}}],
        ),
        (ValueError, "row 0, 'far': layer 9 is out of range: .* 0 to 3", [{"far": {9: 1.0}}]),
        (ValueError, "row 0, 'v': .*more than float32 can hold", [{"v": 1e39}]),
    ]
    for error, message, rows in refusals:
        with pytest.raises(error, match=message):
            patched.rows(rows)
        if isinstance(rows, list) and rows:
            with patched.rows([{"v": 1.0}] * 2) as block:
                before = logits(tiny_model)
                with pytest.raises(error, match=message):
                    block[len(rows) - 1] = rows[-1]
                assert torch.equal(logits(tiny_model), before)
    with patched.rows([{"v": 1.0}, {}]) as block:
        before = logits(tiny_model)
        for change in (
            lambda: block.__setitem__(slice(0, 1), {"v": 1.0}),
            lambda: block.__delitem__(slice(0, 2)),
        ):
            with pytest.raises(TypeError, match="slice"):
                change()
        with pytest.raises(IndexError):
            block[2] = {}
        del block[1]
        with pytest.raises(ValueError, match="the last row cannot be deleted"):
            del block[0]
        block.append({})
        assert torch.equal(logits(tiny_model), before)
    assert torch.equal(logits(tiny_model), shared)
    patched.unpatch()
    with pytest.raises(ValueError, match="was unpatched"):
        patched.rows([{}])
