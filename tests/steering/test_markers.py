"""after(marker, tokenizer) finds a marker in any tokenization, and reports prompts without it.

The reference takes each token's place in the text from the tokenizer's own offsets.
"""

import warnings
from itertools import pairwise

import pytest
import torch
from by_token import greedy, padded, steered_by_token
from compiled_generate import COMPILED
from merging_tokenizers import END, TEXTS, TOKENIZERS, byte_level, sentencepiece
from plain_hooks import random_vector

import faststeer
from faststeer.data.batches import left_padded
from faststeer.steering.vocabulary import decoder_of

CLOSE = {"rtol": 0, "atol": 1e-5}  # see test_positions
VECTOR = random_vector("v", [0, 2])


def begin_by_offsets(tokenizer, text: str) -> int:
    """Return the first token that begins at or after the marker's end."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    end = text.rindex(END) + len(END)
    starts = [start for start, _ in encoded["offset_mapping"]]
    return next((n for n, start in enumerate(starts) if start >= end), len(starts))


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle


def batch_of(tokenizer, texts=TEXTS):
    batch = left_padded([tokenizer(text)["input_ids"] for text in texts], 0, torch.device("cpu"))
    return batch.ids, batch.mask


def behind(scope, ids: list[int]) -> int:
    """Return the first token behind the marker of `after`."""
    return int(scope.columns_behind(torch.tensor([ids])))


def silent(action):
    """Run the call with every warning as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", faststeer.FaststeerWarning)
        return action()


def test_steering_begins_after_the_marker_in_any_tokenization(
    tokenizer, tiny_model, patched, plain
) -> None:
    own = tokenizer(END)["input_ids"]
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    held = [any(row[n : n + len(own)] == own for n in range(len(row))) for row in rows]
    assert not all(held)  # the marker's own ids would not be found in all texts
    ids, mask = batch_of(tokenizer)
    begins = [begin_by_offsets(tokenizer, text) for text in TEXTS]
    assert len(set(begins)) > 2
    found = {}
    for shift in (0, 1):
        terms = [(VECTOR, lambda b, p, n, shift=shift: 2.0 * (p >= begins[b] + shift))]
        with steered_by_token(plain.model, terms, mask):
            found[shift] = greedy(plain, ids, mask, use_cache=False)
    assert float((found[1][1] - found[0][1]).abs().amax((1, 2)).min()) > 1e-3  # one token matters
    patched.steer(VECTOR, 2.0, positions=faststeer.after(END, tokenizer))
    for how in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
        tokens, scores = silent(lambda how=how: greedy(tiny_model, ids, mask, **how))
        assert torch.equal(tokens, found[0][0])
        torch.testing.assert_close(scores, found[0][1], **CLOSE)
    logits = silent(lambda: tiny_model(ids, attention_mask=mask).logits)
    with steered_by_token(plain.model, [(VECTOR, lambda b, p, n: 2.0 * (p >= begins[b]))], mask):
        expected = plain(ids, attention_mask=mask).logits
    torch.testing.assert_close(logits[mask.bool()], expected[mask.bool()], **CLOSE)


def test_a_token_with_the_marker_s_end_and_more_counts_as_marker() -> None:
    tokenizer = byte_level()
    text = f"I {END}\n\nYes"
    ids = tokenizer(text)["input_ids"]
    begin = begin_by_offsets(tokenizer, text)
    across = decoder_of(tokenizer)(ids[:begin])
    assert across.startswith(f"I {END}")
    assert len(across) > len(f"I {END}")  # otherwise this text is not informative
    assert behind(faststeer.after(END, tokenizer), ids) == begin


def test_a_special_token_can_be_a_marker_and_ends_with_its_text() -> None:
    tokenizer = byte_level()
    ids = [*tokenizer("one")["input_ids"], tokenizer.bos_token_id, *tokenizer("two")["input_ids"]]
    begin = ids.index(tokenizer.bos_token_id) + 1
    assert behind(faststeer.after("<s>", tokenizer), ids) == begin


@pytest.mark.parametrize("kind", ["text", "ids"])
def test_prompts_without_the_marker_are_named_once_and_stay_unsteered(
    kind, tiny_model, patched
) -> None:
    tokenizer = byte_level()
    texts = ["nothing", f"it{END}is", "so"]
    ids, mask = batch_of(tokenizer, texts)
    idle = greedy(tiny_model, ids, mask)[1]
    marker = END if kind == "text" else tokenizer(f"it{END}")["input_ids"][1:]
    patched.steer(VECTOR, 2.0, positions=faststeer.after(marker, tokenizer))
    with pytest.warns(faststeer.FaststeerWarning) as caught:
        steered = greedy(tiny_model, ids, mask)[1]
    ours = [str(one.message) for one in caught if "positions=after" in str(one.message)]
    assert len(ours) == 1
    assert "2 of 3 prompts do not hold the marker, and their answers do not" in ours[0]
    assert "(rows 0, 2); nothing is steered there" in ours[0]
    torch.testing.assert_close(steered[[0, 2]], idle[[0, 2]], **CLOSE)
    assert float((steered[1] - idle[1]).abs().max()) > 0.01
    with pytest.warns(faststeer.FaststeerWarning, match="1 of 1 prompts do not hold"):
        tiny_model(ids[:1])


def test_only_scopes_that_need_the_marker_are_warned_of(tiny_model, patched) -> None:
    ids, mask = batch_of(byte_level(), ["nothing", "so"])
    marker = faststeer.after(END, byte_level())
    for scope in (~marker, marker | "generated", faststeer.until(END, byte_level())):
        patched.steer(VECTOR, 2.0, positions=scope)
        with warnings.catch_warnings():
            warnings.simplefilter("error", faststeer.FaststeerWarning)
            greedy(tiny_model, ids, mask)
            tiny_model(ids, attention_mask=mask)
    patched.steer(VECTOR, 2.0, positions=marker & faststeer.first(50))
    for call in (lambda: greedy(tiny_model, ids, mask), lambda: tiny_model(ids)):
        with pytest.warns(faststeer.FaststeerWarning, match="2 of 2 prompts do not hold"):
            call()


def test_several_sequences_of_a_prompt_share_the_marker_s_position(
    tiny_model, patched, plain
) -> None:
    tokenizer = byte_level()
    ids, mask = batch_of(tokenizer, TEXTS[:2])
    begins = [begin_by_offsets(tokenizer, text) for text in TEXTS[:2]]
    with steered_by_token(plain.model, [(VECTOR, lambda b, p, n: 2.0 * (p >= begins[b]))], mask):
        expected = greedy(plain, ids, mask, use_cache=False, num_beams=2, num_return_sequences=2)
    patched.steer(VECTOR, 2.0, positions=faststeer.after(END, tokenizer))
    found = greedy(tiny_model, ids, mask, num_beams=2, num_return_sequences=2)
    assert torch.equal(found[0], expected[0])


def test_a_tokenizer_is_read_once_and_generate_decodes_nothing(
    tiny_model, patched, monkeypatch
) -> None:
    tokenizer = byte_level()
    ids, mask = batch_of(tokenizer)
    calls, decode = [], tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda *a, **k: calls.append(1) or decode(*a, **k))
    patched.steer(VECTOR, 2.0, positions=faststeer.after(END, tokenizer))
    assert len(calls) >= len(tokenizer)
    calls.clear()
    greedy(tiny_model, ids, mask)
    patched.steer(VECTOR, 2.0, positions=faststeer.between("I", END, tokenizer))
    greedy(tiny_model, ids, mask)
    assert not calls


def test_compiled_decoding_takes_other_prompts_without_recompiling(make_tiny) -> None:
    tokenizer, model = byte_level(), make_tiny(layers=2)
    scope = faststeer.after(END, tokenizer)
    torch._dynamo.reset()
    with faststeer.patch(model) as patched, torch.inference_mode():
        patched.steer(random_vector("v", [0, 1]), 2.0, positions=scope)
        batches = [batch_of(tokenizer, texts) for texts in (TEXTS[:2], TEXTS[2:4], TEXTS[1:3])]
        assert len({ids.shape[1] for ids, _ in batches}) == 3
        longest = max(ids.shape[1] for ids, _ in batches) + 6
        for number, (ids, mask) in enumerate(batches):
            new = {"max_new_tokens": longest - ids.shape[1]}  # one size of the static cache
            eager = greedy(model, ids, mask, **new)
            with torch._dynamo.config.patch(error_on_recompile=number > 0):
                compiled = greedy(model, ids, mask, **new, **COMPILED)
            assert torch.equal(compiled[0], eager[0])
            torch.testing.assert_close(compiled[1], eager[1], **CLOSE)
    torch._dynamo.reset()


def test_a_forward_that_is_compiled_as_a_whole_finds_the_marker(make_tiny) -> None:
    tokenizer, model = byte_level(), make_tiny(layers=2)
    ids, mask = batch_of(tokenizer, TEXTS[:2])
    torch._dynamo.reset()
    with faststeer.patch(model) as patched, torch.inference_mode():
        unsteered = model(ids, attention_mask=mask).logits
        patched.steer(random_vector("v", [0]), 2.0, positions=faststeer.after(END, tokenizer))
        expected = model(ids, attention_mask=mask).logits
        found = torch.compile(model, fullgraph=True, backend="eager")(ids, attention_mask=mask)
    torch.testing.assert_close(found.logits[mask.bool()], expected[mask.bool()], **CLOSE)
    assert float((expected - unsteered).abs().max()) > 0.01
    torch._dynamo.reset()


def test_an_empty_marker_and_an_unseen_prompt_are_refused(
    tiny_model, patched, byte_tokenizer
) -> None:
    ids, _ = padded((3, 7, 5))
    with pytest.raises(ValueError, match="needs the tokenizer"):
        faststeer.after("[/INST]")
    with pytest.raises(ValueError, match="an empty text as the marker"):
        faststeer.after("", byte_tokenizer)
    with pytest.raises(ValueError, match="without tokens"):
        faststeer.after([])
    with pytest.raises(TypeError, match="got a str as the tokenizer; expected one with"):
        faststeer.after("[/INST]", "gpt2")
    for marker in ([1] * 9, "[/INST]"):
        patched.steer(VECTOR, positions=faststeer.after(marker, byte_tokenizer))
        with pytest.warns(faststeer.FaststeerWarning, match="3 of 3 prompts do not hold"):
            tiny_model(ids)
        embeds = tiny_model.model.embed_tokens(ids)
        with pytest.raises(ValueError, match="has to see the prompt's ids"):
            tiny_model(inputs_embeds=embeds)
        with pytest.raises(ValueError, match="has to see the prompt's ids"):
            tiny_model.generate(inputs_embeds=embeds, input_ids=ids, max_new_tokens=2)


def test_scopes_of_one_marker_share_a_column_and_those_of_other_markers_do_not() -> None:
    tokenizer, other = byte_level(), sentencepiece()
    same = [faststeer.after(END, tokenizer), faststeer.after(END, tokenizer)]
    assert same[0] == same[1]
    others = [faststeer.after(END, other), faststeer.after("[", tokenizer), faststeer.after([1])]
    assert all(a != b for a, b in pairwise([same[0], *others]))
    assert faststeer.after([1, 2]) == faststeer.after((1, 2))
