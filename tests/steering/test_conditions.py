"""`when=`: whether each sequence is steered depends on its own prompt's content."""

import pytest
import torch
from by_token import greedy, padded
from compiled_generate import COMPILED
from plain_hooks import random_vector
from renamed_arguments import past, past_of

import faststeer

CLOSE = {"rtol": 0, "atol": 1e-5}
IDS, MASK = padded((3, 7, 5, 7))
C, V = random_vector("c", [1]), random_vector("v", [1, 2, 3], seed=1)


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle


def similarities(plain, layer: int = 1, mask=MASK):
    """Return the similarity of each prompt's mean with C, computed the obvious way."""
    places = (mask.cumsum(1) - 1).clamp(min=0)
    out = plain(IDS, attention_mask=mask, position_ids=places, output_hidden_states=True)
    hidden = out.hidden_states[layer + 1]
    means = torch.stack([h[m.bool()].mean(0) for h, m in zip(hidden, mask, strict=True)])
    return torch.cosine_similarity(means, C.directions[1], dim=1)


@pytest.fixture
def middle(plain) -> float:
    """Return a threshold that two of the four prompts pass."""
    with torch.inference_mode():
        ordered = similarities(plain).sort().values
    assert ordered[2] - ordered[1] > 0.01
    return float(ordered[1:3].mean())


def rows_of(passing, row):
    return [row if passes else {} for passes in passing.tolist()]


def test_only_sequences_whose_prompt_passes_are_steered_also_while_decoding(
    tiny_model, patched, plain, middle
) -> None:
    passing = similarities(plain) > middle
    patched.steer(V, 2.0, layers=[2, 3])
    with patched.rows(rows_of(passing, {"v": 2.0})):
        expected = greedy(tiny_model, IDS, MASK)
    handle = patched.steer(V, 2.0, layers=[2, 3], when=faststeer.when(C, above=middle))
    tokens, scores = greedy(tiny_model, IDS, MASK)
    assert torch.equal(tokens, expected[0])
    torch.testing.assert_close(scores, expected[1], **CLOSE)
    assert handle.passed.tolist() == passing.tolist()


def test_the_mean_is_of_a_prompts_own_tokens_without_its_padding(
    tiny_model, patched, plain
) -> None:
    for sequence, similarity in enumerate(similarities(plain).tolist()):
        for threshold, passes in ((similarity - 1e-4, True), (similarity + 1e-4, False)):
            condition = faststeer.when(C, above=threshold)
            handle = patched.steer(V, 2.0, layers=3, when=condition)
            tiny_model(IDS, attention_mask=MASK, position_ids=(MASK.cumsum(1) - 1).clamp(min=0))
            assert handle.passed[sequence] == passes


def test_below_selects_the_other_sequences_and_both_may_steer_differently(
    tiny_model, patched, plain, middle
) -> None:
    passing = similarities(plain) > middle
    patched.steer(V, 2.0, layers=3, name="a")
    patched.steer(V, -1.0, layers=2, name="b")
    rows = [{"a": 2.0} if passes else {"b": -1.0} for passes in passing.tolist()]
    with patched.rows(rows):
        expected = greedy(tiny_model, IDS, MASK)
    patched.steer(V, 2.0, layers=3, name="a", when=faststeer.when(C, above=middle))
    patched.steer(V, -1.0, layers=2, name="b", when=faststeer.when(C, below=middle))
    found = greedy(tiny_model, IDS, MASK)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], **CLOSE)


def test_a_condition_combines_with_rows_positions_and_modes(
    tiny_model, patched, plain, middle
) -> None:
    passing = (similarities(plain) > middle).tolist()
    given = [{"v": 3.0}, {"v": 0.5}, {}, {"v": -2.0}]
    how = {"layers": [2, 3], "mode": "project", "positions": "generated"}
    patched.steer(V, **how)
    with patched.rows([row if passes else {} for row, passes in zip(given, passing, strict=True)]):
        expected = greedy(tiny_model, IDS, MASK)
    patched.steer(V, when=faststeer.when(C, above=middle), **how)
    with patched.rows(given):
        found = greedy(tiny_model, IDS, MASK)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], **CLOSE)


def test_a_condition_is_evaluated_for_each_prompt_also_in_a_plain_forward(
    tiny_model, patched, plain, middle
) -> None:
    ones = torch.ones_like(MASK)
    passing = similarities(plain, mask=ones) > middle
    assert 0 < passing.sum() < 4
    with patched.off():
        idle = tiny_model(IDS).logits
    handle = patched.steer(V, 2.0, layers=3, when=faststeer.when(C, above=middle))
    found = tiny_model(IDS).logits
    assert handle.passed.tolist() == passing.tolist()
    assert (found != idle).flatten(1).any(1).tolist() == passing.tolist()
    turned = tiny_model(IDS.flip(0)).logits
    assert torch.equal(turned.flip(0), found)
    assert handle.passed.tolist() == passing.flip(0).tolist()


def test_beams_and_returned_sequences_share_the_decision_of_their_prompt(
    tiny_model, patched, plain, middle
) -> None:
    passing = similarities(plain) > middle
    for how in ({"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}):
        patched.steer(V, 2.0, layers=[2, 3])
        with patched.rows(rows_of(passing, {"v": 2.0})):
            expected, _ = greedy(tiny_model, IDS, MASK, **how)
        patched.steer(V, 2.0, layers=[2, 3], when=faststeer.when(C, above=middle))
        found, _ = greedy(tiny_model, IDS, MASK, **how)
        assert torch.equal(found, expected)


def test_a_compiled_decode_follows_each_prompt_s_decision_without_recompiling(
    tiny_model, patched, plain, middle
) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    patched.steer(V, 2.0, layers=[2, 3], when=faststeer.when(C, above=middle))
    for ids, mask in ((IDS, MASK), (IDS.flip(0), MASK.flip(0))):
        expected = greedy(tiny_model, ids, mask)
        found = greedy(tiny_model, ids, mask, **COMPILED)
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], **CLOSE)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_parts_of_prompts_are_refused_with_a_clear_error(tiny_model, patched, middle) -> None:
    patched.steer(V, layers=3, when=faststeer.when(C, above=middle))
    with pytest.raises(ValueError, match="whole prompts: no chunked prefill"):
        greedy(tiny_model, IDS, MASK, prefill_chunk_size=4)
    cache = past_of(tiny_model.model(IDS[:, :3]))
    patched.prompt_lengths = [7, 7, 7, 7]
    with pytest.raises(ValueError, match="no prompt behind a past"):
        tiny_model(IDS[:, 3:], **past(tiny_model, cache))
    for token in (0, 1):  # one token at a time
        with pytest.raises(RuntimeError, match="whole prompts"):
            tiny_model(IDS[:, token : token + 1])


def test_an_inactive_condition_evaluates_nothing(tiny_model, patched, middle) -> None:
    handle = patched.steer(V, layers=3, when=faststeer.when(C, above=middle))
    cache = past_of(tiny_model.model(IDS[:, :3]))
    with patched.off():
        idle = tiny_model(IDS[:, 3:4], **past(tiny_model, cache)).logits
    # These prompts were not evaluated, so that no sequence is steered.
    cache, patched.prompt_lengths = past_of(tiny_model.model(IDS[:, :3])), [3] * 4
    handle.remove()
    handle = patched.steer(V, layers=3, when=faststeer.when(C, above=-1.0))
    assert torch.equal(tiny_model(IDS[:, 3:4], **past(tiny_model, cache)).logits, idle)
    handle.remove()
    assert not any(table.readers for table in patched.plan.tables.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either above= or below="),
        ({"above": 0.1, "below": 0.2}, "either above= or below="),
        ({"above": 1.5}, "threshold 1.5; a cosine is from -1 to 1"),
        ({"above": 0.1, "layer": 7}, "no direction for layer 7"),
    ],
)
def test_an_invalid_condition_is_refused(given, message) -> None:
    with pytest.raises(ValueError, match=message):
        faststeer.when(C, **given)
    with pytest.raises(ValueError, match=r"layers \[1, 2, 3\]; say which"):
        faststeer.when(V, above=0.1)


def test_a_condition_read_too_late_or_at_no_layer_is_refused(patched) -> None:
    with pytest.raises(ValueError, match="too late for resid_post of layer 1"):
        patched.steer(V, when=faststeer.when(C, above=0.1))
    with pytest.raises(ValueError, match="no such site"):
        patched.steer(V, layers=3, when=faststeer.when(C.at(1, to=9), above=0.1))
    narrow = faststeer.when(random_vector("c", [1], hidden=32), above=0.1)
    with pytest.raises(ValueError, match="of size 32; this model has"):
        patched.steer(V, layers=3, when=narrow)
    assert patched.handles == []
