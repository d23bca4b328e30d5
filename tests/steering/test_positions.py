"""Each scope of positions= acts on exactly its tokens, however they are passed.

The reference adds a vector token by token with hooks, selects the tokens in plain Python, and runs
without a cache (`by_token`).
"""

import pytest
import torch
import transformers
from by_token import greedy, padded, steered_by_token
from plain_hooks import random_vector
from renamed_arguments import past, past_of

import faststeer

# float32 logits of about 10, computed once with a cache and once without: 1e-6 was observed.
CLOSE = {"rtol": 0, "atol": 1e-5}

IDS, MASK = padded((3, 7, 5))
MARKER = torch.tensor([11, 12])  # otherwise in no prompt
IDS[1, 1:3] = IDS[1, 3:5] = IDS[2, 3:5] = MARKER  # last before two tokens; sequence 0 has none
MARKS = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.5
COLUMN = torch.tensor([False, True, False, True, True, False, True])

# The value of positions=, and whether it contains a token of sequence b at position p, where n is
# the length of the prompt.
SCOPES = {
    "all": ("all", lambda b, p, n: True),
    "prompt": ("prompt", lambda b, p, n: p < n),
    "generated": ("generated", lambda b, p, n: p >= n),
    "from_last_prompt": ("from_last_prompt", lambda b, p, n: p >= n - 1),
    "last": ("last", lambda b, p, n: p == n - 1),
    "after": (faststeer.after(MARKER.tolist()), lambda b, p, n: b > 0 and p >= n - 2),
    "range": (range(1, 8), lambda b, p, n: 1 <= p < 8),
    "range from the end": (range(-3, -1), lambda b, p, n: n - 3 <= p < n - 1),
    "range to the end": (range(-4, 0), lambda b, p, n: n - 4 <= p < n),
    "slice from the end": (slice(-2, None), lambda b, p, n: p >= n - 2),
    "slice to the end": (slice(None, -1), lambda b, p, n: p < n - 1),
    "numbers": ([0, 2, 3, 8], lambda b, p, n: p in (0, 2, 3, 8)),
    "numbers from both ends": ((0, -1, -2), lambda b, p, n: p in (0, n - 1, n - 2)),
    "function": (lambda p, n: (p % 2 == 0) & (p < n + 3), lambda b, p, n: p % 2 == 0 and p < n + 3),
    "marks": (MARKS, lambda b, p, n: p < n and bool(MARKS[b, p + 7 - n])),
    "marked columns": (COLUMN, lambda b, p, n: p < n and bool(COLUMN[p + 7 - n])),
}


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        handle.model = tiny_model
        yield handle


def terms_of(names, sites=("resid_post",), coefficient=1.5):
    """Return a vector per scope, at alternating sites: the steering and the reference's terms."""
    steer, terms = [], []
    for number, name in enumerate(names):
        positions, inside = SCOPES[name]
        vector = random_vector(name, [0, 2], seed=number, site=sites[number % len(sites)])
        steer.append((vector, coefficient, positions))
        terms.append((vector, lambda b, p, n, inside=inside: coefficient * inside(b, p, n)))
    return steer, terms


def put(patched, steer) -> None:
    for vector, coefficient, positions in steer:
        patched.steer(vector, coefficient, positions=positions)


def same(found, expected, idle=None) -> None:
    """Assert equal tokens and equal logits at each step, and that steering had an effect."""
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], **CLOSE)
    if idle is not None:
        assert (expected[1] - idle[1]).abs().amax((1, 2)).max() > 1000 * CLOSE["atol"]


@pytest.mark.parametrize("name", SCOPES)
def test_a_scope_acts_on_its_tokens_while_generating(name, patched, plain) -> None:
    steer, terms = terms_of([name])
    idle = greedy(patched.model, IDS, MASK)
    put(patched, steer)
    with steered_by_token(plain.model, terms, MASK):
        expected = greedy(plain, IDS, MASK, use_cache=False)
    same(greedy(patched.model, IDS, MASK), expected, idle)


WAYS = {
    "a static cache": {"cache_implementation": "static"},
    "a prompt in chunks": {"prefill_chunk_size": 3},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("sites", [["resid_pre"], ["resid_mid"], ["resid_mid", "resid_post"]])
def test_scopes_together_at_a_layer_are_each_right_with(
    way, padding, sites, patched, plain
) -> None:
    if padding and way == "a prompt in chunks" and transformers.__version__ < "5":
        pytest.skip("transformers 4 itself loses the padding of a prompt in chunks")
    mask = MASK if padding else torch.ones_like(MASK)
    steer, terms = terms_of(SCOPES, sites, 0.4)
    put(patched, steer)
    with steered_by_token(plain.model, terms, mask):
        expected = greedy(plain, IDS, mask, use_cache=False)
    same(greedy(patched.model, IDS, mask, **WAYS[way]), expected)


# A text of 12 tokens per sequence; the first 7 columns are prompts.
TEXT = torch.cat(
    [IDS, torch.randint(20, 512, (3, 5), generator=torch.Generator().manual_seed(2))], 1
)
TEXT_MASK = torch.cat([MASK, torch.ones_like(MASK[:, :5])], 1)
OF_CALLS = [name for name in SCOPES if name != "after"]  # that has to see the prompts' ids


def text_logits(model, mask=TEXT_MASK, calls=(12,)):
    """Return each column's logits for text passed in chunks, with generate's position_ids."""
    numbers = (mask.cumsum(1) - 1).clamp(min=0)
    cache, found, begin = None, [], 0
    for count in calls:
        here = slice(begin, begin + count)
        begin += count
        output = model(
            TEXT[:, here],
            attention_mask=mask[:, :begin],
            position_ids=numbers[:, here],
            use_cache=True,
            **past(model, cache),
        )
        cache = past_of(output)
        found.append(output.logits)
    return torch.cat(found, 1)[mask.bool()]


@pytest.mark.parametrize("calls", [(12,), (3, 4, 5), (7, 1, 1, 1, 1, 1), (1, 2, 3, 2, 4)])
@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
def test_prompt_lengths_state_where_prompts_end_in_manual_calls(
    calls, site, patched, plain
) -> None:
    steer, terms = terms_of(OF_CALLS, [site], 0.4)
    put(patched, steer)
    patched.prompt_lengths = [3, 7, 5]
    with steered_by_token(plain.model, terms, MASK), torch.inference_mode():
        expected = text_logits(plain)
    torch.testing.assert_close(text_logits(patched.model, calls=calls), expected, **CLOSE)


def test_a_forward_without_a_past_is_a_prompt(patched, plain) -> None:
    steer, terms = terms_of([name for name in SCOPES if "mark" not in name], coefficient=0.4)
    put(patched, steer)
    with steered_by_token(plain.model, terms, MASK), torch.inference_mode():
        expected = plain(IDS, attention_mask=MASK).logits[MASK.bool()]
    found = patched.model(IDS, attention_mask=MASK).logits[MASK.bool()]
    torch.testing.assert_close(found, expected, **CLOSE)
    by_position = patched.model.model(IDS, MASK).last_hidden_state
    assert torch.equal(patched.model.lm_head(by_position)[MASK.bool()], found)


@pytest.mark.parametrize("how", ["the whole text", "what is new"])
def test_a_continued_chat_has_a_longer_prompt(how, patched, plain) -> None:
    """The second turn's padding is in the middle: one reply is two tokens shorter."""
    if how == "what is new" and transformers.__version__ < "5":
        pytest.skip("transformers 4 takes the whole text only")
    steer, terms = terms_of(SCOPES if how == "the whole text" else OF_CALLS, coefficient=0.4)
    put(patched, steer)
    first = patched.model.generate(
        IDS, attention_mask=MASK, max_new_tokens=4, do_sample=False, return_dict_in_generate=True
    )
    reply = torch.tensor([[30, 31, 32], [40, 41, 42], [0, 0, 52]])
    text = torch.cat([first.sequences, reply], 1)
    mask = torch.cat([MASK, torch.ones_like(MASK[:, :4]), (reply > 0).long()], 1)

    def of_both_turns(name, amount):
        def of_turn(b, p, n):
            before = (3, 7, 5)[b]
            cached = p < before + 3  # without the last generated token
            return amount(b, p, before if cached or "mark" in name or name == "after" else n)

        return of_turn

    twice = [(vector, of_both_turns(vector.name, amount)) for vector, amount in terms]
    with steered_by_token(plain.model, twice, mask):
        expected = greedy(plain, text, mask, use_cache=False)
    given = text if how == "the whole text" else text[:, 10:]
    sequences, logits = greedy(patched.model, given, mask, **past(patched.model, past_of(first)))
    whole = torch.cat([text, sequences[:, given.shape[1] :]], 1)
    same((whole, logits), expected)
