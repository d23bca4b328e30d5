"""Scopes of what is written: each equals plain hooks that look at the whole sequence every time."""

import copy
from functools import lru_cache

import pytest
import torch
from by_token import padded
from explicit_scopes import (
    WAYS,
    at_ids,
    behind,
    both,
    either,
    enclosed_by,
    first_of,
    opposite,
    require_equal,
    steered_where,
    written,
)
from renamed_arguments import past
from tiny_families import MORE
from written_rows import CLOSE, IDS, MASK, OPEN, STRENGTH, WRITTEN, V

import faststeer

SCOPES = {
    "between": (faststeer.between(OPEN, CLOSE), enclosed_by(OPEN, CLOSE)),
    "between the same": (faststeer.between(CLOSE, CLOSE), enclosed_by(CLOSE, CLOSE)),
    "after": (faststeer.after(OPEN), behind(OPEN)),
    "until": (faststeer.until(CLOSE), opposite(behind(CLOSE))),
    "first": (faststeer.first(3), first_of(3)),
    "at": (faststeer.at([11, 13]), at_ids([11, 13])),
    "and": (
        faststeer.between(OPEN, CLOSE) & "generated",
        both(enclosed_by(OPEN, CLOSE), opposite(lambda ids, n: [i < n for i in range(len(ids))])),
    ),
    "or, not": (
        range(-2, 0) | ~(faststeer.first(5) | faststeer.after(CLOSE)),
        either(
            lambda ids, n: [n - 2 <= i < n for i in range(len(ids))],
            opposite(either(first_of(5), behind(CLOSE))),
        ),
    ),
}


@lru_cache(maxsize=4)
def plain_model(make_tiny, family):
    more = {} if family == "Olmo2" else MORE[family]
    return make_tiny(family=family, **more)


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma3", "Olmo2"])
@pytest.mark.parametrize("name", SCOPES)
@pytest.mark.filterwarnings("ignore::faststeer.FaststeerWarning")
def test_each_scope_equals_hooks_that_look_at_every_token(family, name, make_tiny) -> None:
    """Olmo2 is steered by hooks; Gemma 3 and Qwen2 have sliding windows of 4 tokens."""
    scope, chooses = SCOPES[name]
    plain = plain_model(make_tiny, family)
    model = copy.deepcopy(plain)
    given = [STRENGTH, -STRENGTH, 0.0, STRENGTH / 2]
    with torch.inference_mode():
        unsteered = written(plain, IDS, MASK, WRITTEN, use_cache=False)
        with steered_where(plain.model, V, given, chooses, MASK):
            expected = written(plain, IDS, MASK, WRITTEN, use_cache=False)
        changed = (expected[1] - unsteered[1]).abs().amax(2) > 1e-3
        assert changed[[0, 1, 3]].any(1).all()  # rows 0, 1 and 3 are steered
        assert not changed[2].any()
        with faststeer.patch(model) as patched:
            patched.steer(V, positions=scope)
            with patched.rows([{"v": amount} if amount else {} for amount in given]):
                ways = WAYS if family == "Llama" else {"cached": {}, "static": WAYS["static"]}
                for how in ways.values():
                    require_equal(written(model, IDS, MASK, WRITTEN, **how), expected, unsteered)


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle


def test_thinking_and_answer_are_apart_and_together_all_behind_the_opening(
    tiny_model, patched, plain
) -> None:
    prompts, mask = padded((5, 5))
    texts = [{1: 11, 2: 12, 6: 13}, {0: 11, 1: 12, 8: 13}]
    thinking = faststeer.between(OPEN, CLOSE)
    patched.steer(V, 3.0, layers=1, positions=thinking)
    patched.steer(V, -2.0, layers=3, positions=faststeer.after(CLOSE))
    found = written(tiny_model, prompts, mask, texts)
    unsteered = written(plain, prompts, mask, texts, use_cache=False)
    one, other = V.select([1]), V.select([3])
    inside, answer = enclosed_by(OPEN, CLOSE), behind(CLOSE)
    with (
        steered_where(plain.model, one, [3.0] * 2, inside, mask),
        steered_where(plain.model, other, [-2.0] * 2, answer, mask),
    ):
        expected = written(plain, prompts, mask, texts, use_cache=False)
    require_equal(found, expected, unsteered)
    for row in found[0].tolist():
        pairs = zip(inside(row, 5), answer(row, 5), behind(OPEN)(row, 5), strict=True)
        assert all(a + b == whole for a, b, whole in pairs)


def test_capture_counts_what_is_between_markers_in_prompt_and_answer(tiny_model) -> None:
    scope, chooses = faststeer.between(OPEN, CLOSE), enclosed_by(OPEN, CLOSE)
    with (
        torch.inference_mode(),
        faststeer.capture(tiny_model, layers=1, positions=scope) as moments,
    ):
        sequences, _ = written(tiny_model, IDS, MASK, WRITTEN)
    fed = sequences[:, :-1]  # the last token is never an input
    lengths = MASK.sum(1).tolist()
    count = sum(
        sum(chooses(row[7 - length :].tolist(), length))
        for row, length in zip(fed, lengths, strict=True)
    )
    assert int(moments[1].count) == count > 10


def test_embeddings_and_pasts_that_cannot_be_followed_are_refused(tiny_model, patched) -> None:
    embeds = tiny_model.model.embed_tokens(IDS)
    for scope in (faststeer.between(OPEN, CLOSE), faststeer.at([1]), faststeer.until(OPEN)):
        patched.steer(V, positions=scope)
        with pytest.raises(ValueError, match="has to see the"):
            tiny_model(inputs_embeds=embeds, attention_mask=MASK)

    class Other:
        def get_seq_length(self) -> int:
            return 5

    patched.steer(V, positions=faststeer.between(OPEN, CLOSE))
    with pytest.raises(ValueError, match="a LlamaModel got a Other, which may reorder"):
        tiny_model(IDS, **past(tiny_model, Other()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: faststeer.between([], [1]), ValueError, "a marker without tokens"),
        (lambda: faststeer.between("a", [1]), ValueError, r"between\('a'\) needs the tokenizer"),
        (lambda: faststeer.between([1.5], [1]), TypeError, "a float as a token id"),
        (lambda: faststeer.at([]), ValueError, "without tokens"),
        (lambda: faststeer.at("word"), TypeError, "got a str; expected token ids"),
        (lambda: faststeer.at([-1]), ValueError, "token id -1; ids begin with 0"),
        (lambda: faststeer.at([True]), TypeError, "a bool as a token id"),
        (lambda: faststeer.first(0), ValueError, "expected at least 1 token"),
        (lambda: faststeer.first(1.0), TypeError, "expected a number of tokens"),
        (lambda: faststeer.first(2) & "later", ValueError, "'later' is unknown"),
        (lambda: faststeer.first(2) & [1], TypeError, "unsupported operand"),
    ],
)
def test_what_is_no_scope_is_refused(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_scopes_are_shown_in_words_and_equal_ones_share_a_column(patched) -> None:
    scope = (faststeer.between(OPEN, CLOSE) | faststeer.at(5)) & "generated"
    assert str(scope) == (
        "(between the ids [11, 12] and the ids [13] or at the ids [5]) and generated"
    )
    assert str(~scope) == f"not ({scope})"
    assert str(faststeer.first(4)) == "first(4)"
    same = (faststeer.between(OPEN, CLOSE) | faststeer.at([5])) & "generated"
    assert scope == same
    assert hash(scope) == hash(same)
    patched.steer(V, positions=scope, name="a")
    patched.steer(V, positions=same, name="b")
    assert len(patched.plan.forward.scopes) == 2  # that of all tokens, and theirs


def test_a_scope_of_several_modes_is_looked_at_once(tiny_model, patched, monkeypatch) -> None:
    scope, calls = faststeer.between(OPEN, CLOSE), []
    mask = type(scope).mask
    monkeypatch.setattr(
        type(scope), "mask", lambda own, tokens: calls.append(own) or mask(own, tokens)
    )
    patched.steer(V, 1.0, positions=scope)
    patched.ablate(
        V, layer=1, fraction=0.5, name="ablated", positions=faststeer.between(OPEN, CLOSE)
    )
    tiny_model(IDS, attention_mask=MASK)
    assert len(calls) == 1
