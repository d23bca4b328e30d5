"""Scopes of what is written follow the cache: beams, rejected tokens, chunks and graphs."""

import copy
import pickle

import pytest
import torch
from by_token import padded
from compiled_generate import At, require_one_graph
from explicit_scopes import (
    Writes,
    both,
    enclosed_by,
    require_equal,
    steered_where,
    written,
)
from plain_hooks import random_vector
from renamed_arguments import past, past_of
from transformers import DynamicCache
from written_rows import CLOSE, IDS, MASK, OPEN, STRENGTH, WRITTEN, V

import faststeer
from faststeer.steering import sequence_memory
from faststeer.steering.sequence_memory import SequenceMemory


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle


def test_beams_take_their_states_with_them(tiny_model, patched, monkeypatch) -> None:
    ids, mask = padded((5, 7))
    how = {"num_beams": 4, "max_new_tokens": 10, "length_penalty": 0.0}
    rows = [{}, {}]
    common = written(tiny_model, ids, mask, rows, **how)[0][:, 7:].unique().tolist()
    wrong = 0
    for token in common:
        patched.steer(V, 3.0, positions=faststeer.between(token, 13))
        expected = written(tiny_model, ids, mask, rows, use_cache=False, **how)
        with monkeypatch.context() as patch:
            patch.setattr(SequenceMemory, "reorder", lambda self, lines: None)
            wrong += not torch.equal(written(tiny_model, ids, mask, rows, **how)[0], expected[0])
        assert torch.equal(written(tiny_model, ids, mask, rows, **how)[0], expected[0])
    assert wrong  # of these tokens some are in some beams alone


def test_rejected_tokens_of_assisted_decoding_leave_no_trace(
    tiny_model, patched, make_tiny
) -> None:
    ids, mask = IDS[1:2], MASK[1:2]
    assistant = make_tiny(layers=2, seed=0)
    how = {"max_new_tokens": 16, "assistant_model": assistant}
    fed: list[int] = []
    hook = tiny_model.model.embed_tokens.register_forward_pre_hook(
        lambda module, args: fed.extend(args[0].flatten().tolist())
    )
    alone = written(tiny_model, ids, mask, [{}], max_new_tokens=16)
    fed.clear()
    unsteered = written(tiny_model, ids, mask, [{}], **how)
    hook.remove()
    assert torch.equal(unsteered[0], alone[0])
    answer = alone[0][0].tolist()
    rejected = [token for token in fed if token not in answer]
    assert rejected  # otherwise nothing was proposed in vain
    patched.steer(V, 6.0, positions=faststeer.after(rejected[0]))
    with pytest.warns(faststeer.FaststeerWarning, match="and their answers do not"):
        found = written(tiny_model, ids, mask, [{}], **how)
    assert torch.equal(found[0], alone[0])
    for token in answer[8:12]:
        patched.steer(V, 2.0, positions=faststeer.between(token, answer[-3]))
        expected = written(tiny_model, ids, mask, [{}], max_new_tokens=16, use_cache=False)
        found = written(tiny_model, ids, mask, [{}], **how)
        assert torch.equal(found[0], expected[0])


def test_a_compiled_decode_follows_the_text_without_recompiling(make_tiny) -> None:
    model = make_tiny(layers=4)
    with faststeer.patch(model) as patched, torch.inference_mode():
        patched.steer(V, STRENGTH, positions=faststeer.between(OPEN, CLOSE) | faststeer.at(11))
        patched.steer(random_vector("w", [2], seed=1), 2.0, positions=faststeer.after(CLOSE))
        require_one_graph(model, [(IDS, MASK, WRITTEN), (IDS[:, 1:], MASK[:, 1:], WRITTEN[::-1])])


@pytest.mark.parametrize(("columns", "kept"), [(512, 10), (4, 13)])
def test_chunks_join_and_a_cropped_cache_resumes_from_where_it_was_cropped(
    columns, kept, tiny_model, patched, monkeypatch
) -> None:
    monkeypatch.setattr(sequence_memory, "COLUMNS", columns)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(20, 512, (2, 16), generator=generator)
    ids[0, 3:5], ids[0, 11] = torch.tensor(OPEN), CLOSE[0]
    ids[1, 5:7] = torch.tensor(OPEN)
    other = ids.clone()
    other[:, kept:] = torch.randint(20, 512, (2, 16 - kept), generator=generator)
    other[1, kept] = CLOSE[0]
    patched.steer(V, STRENGTH, positions=faststeer.between(OPEN, CLOSE))
    patched.prompt_lengths = [4, 4]
    whole = [tiny_model(own, use_cache=False).logits for own in (ids, other)]
    with patched.off():
        unsteered = tiny_model(other).logits
    assert float((unsteered - whole[1]).abs()[1, kept:].max()) > 0.01
    output = tiny_model(ids[:, :4], use_cache=True)
    cache, found = past_of(output), [output.logits]
    for start, stop in ((4, 9), (9, 12), (12, 13), (13, 16)):
        output = tiny_model(ids[:, start:stop], **past(tiny_model, cache))
        found.append(output.logits)
        cache = past_of(output)
    torch.testing.assert_close(torch.cat(found, 1), whole[0], rtol=0, atol=1e-5)
    cache.crop(kept - 16)
    output = tiny_model(other[:, kept:], **past(tiny_model, cache))
    torch.testing.assert_close(output.logits, whole[1][:, kept:], rtol=0, atol=1e-5)


def test_a_cache_that_was_filled_unseen_or_copied_is_refused(tiny_model, patched) -> None:
    patched.prompt_lengths = [4] * 4
    unseen = past_of(tiny_model(IDS[:, :5], use_cache=True))
    patched.steer(V, STRENGTH, positions=faststeer.between(OPEN, CLOSE))
    with pytest.raises(ValueError, match="has not seen the tokens before these"):
        tiny_model(IDS[:, 5:], **past(tiny_model, unseen))
    cache = past_of(tiny_model(IDS[:, :5], use_cache=True))
    copied = copy.deepcopy(cache)
    found = tiny_model(IDS[:, 5:], **past(tiny_model, cache)).logits
    with pytest.raises(RuntimeError, match="has not seen the tokens before these"):
        tiny_model(IDS[:, 5:6], **past(tiny_model, copied))
    whole = tiny_model(IDS, use_cache=False).logits[:, 5:]
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)


def test_a_copy_of_a_followed_cache_reorders_its_own_rows(tiny_model, patched) -> None:
    patched.steer(V, STRENGTH, positions=faststeer.between(OPEN, CLOSE))
    cache = past_of(tiny_model(IDS, use_cache=True))
    keys = cache.layers[0].keys.clone()
    for copied in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        copied.reorder_cache(torch.tensor([1, 0, 2, 3]))
        assert torch.equal(copied.layers[0].keys, keys[[1, 0, 2, 3]])
        assert torch.equal(cache.layers[0].keys, keys)


def test_a_conversation_resumes_with_its_cache(tiny_model, patched) -> None:
    patched.steer(V, STRENGTH, positions=faststeer.between(OPEN, CLOSE))
    cache = DynamicCache()
    own = past(tiny_model, cache)
    first = written(tiny_model, IDS[1:2], MASK[1:2], [{}], **own)
    longer = torch.cat([first[0], IDS[:1, -2:]], 1)
    mask = torch.ones_like(longer)
    expected = written(tiny_model, longer, mask, [{}])
    found = written(tiny_model, longer, mask, [{}], **own)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)


def test_states_are_kept_while_steering_is_off(tiny_model, patched, plain) -> None:
    ids, mask, rows = IDS[1:2], MASK[1:2], [{0: CLOSE[0], 4: 11, 5: 12}]
    unsteered = written(plain, ids, mask, rows, use_cache=False)
    on = both(enclosed_by(OPEN, CLOSE), lambda ids, n: [i not in (7, 8) for i in range(len(ids))])
    with steered_where(plain.model, V, [STRENGTH], on, mask):
        expected = written(plain, ids, mask, rows, use_cache=False)
    patched.steer(V, STRENGTH, positions=faststeer.between(OPEN, CLOSE))
    off = patched.off()
    # off() ends before the answer does
    steps = At(t7=off.__enter__, t9=lambda: off.__exit__(None, None, None))
    processors = [Writes(rows, 7), steps]
    require_equal(
        written(tiny_model, ids, mask, rows, logits_processor=processors), expected, unsteered
    )
