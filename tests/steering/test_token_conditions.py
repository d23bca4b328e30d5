"""`when(each="token")`: each token decides on its own later layers, in the prompt and behind it."""

import copy
import warnings

import pytest
import torch
from by_token import padded
from compiled_generate import require_one_graph
from explicit_scopes import WAYS, enclosed_by, require_equal, steered_where, written
from plain_hooks import random_vector
from renamed_arguments import enable_checkpointing, past, past_of
from tiny_families import MORE

import faststeer
from faststeer.steering.sequence_memory import SequenceMemory

IDS, MASK = padded((3, 7, 5, 7))
V = random_vector("v", [1, 3])
C = random_vector("c", [0], seed=5)
ROWS = [{}] * 4
THRESHOLD = 0.08


def condition(hysteresis: int = 0, above: float = THRESHOLD):
    return faststeer.when(C, layer=0, above=above, each="token", hysteresis=hysteresis)


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma3", "Olmo2"])
@pytest.mark.parametrize("hysteresis", [0, 2])
@pytest.mark.filterwarnings("ignore::faststeer.FaststeerWarning")
def test_it_equals_hooks_that_compare_every_token(family, hysteresis, make_tiny) -> None:
    more = {} if family == "Olmo2" else MORE[family]
    plain = make_tiny(family=family, **more)
    model = copy.deepcopy(plain)
    given = [4.0, -4.0, 0.0, 2.0]
    where = (C, THRESHOLD, hysteresis)
    with torch.inference_mode():
        unsteered = written(plain, IDS, MASK, ROWS, use_cache=False)
        with steered_where(plain.model, V, given, None, MASK, where):
            expected = written(plain, IDS, MASK, ROWS, use_cache=False)
        with steered_where(plain.model, V, given, None, MASK, (C, THRESHOLD, 2 - hysteresis)):
            other = written(plain, IDS, MASK, ROWS, use_cache=False)
        assert not torch.equal(other[1], expected[1])  # the hysteresis matters
        with faststeer.patch(model) as patched:
            handle = patched.steer(V, when=condition(hysteresis))
            with patched.rows([{"v": amount} if amount else {} for amount in given]):
                ways = WAYS if family == "Llama" else {"cached": {}, "static": WAYS["static"]}
                for name, how in ways.items():
                    found = written(model, IDS, MASK, ROWS, **how)
                    require_equal(found, expected, unsteered)
                    assert handle.passed.shape == ((4, 18) if name == "uncached" else (4, 1))


def test_it_combines_with_scopes_and_another_vector_acts_where_it_does_not(
    tiny_model, patched, plain
) -> None:
    rows = [{0: 11, 5: 13}, {2: 11}, {1: 11, 3: 13, 4: 11}, {}]
    unsteered = written(plain, IDS, MASK, rows, use_cache=False)
    one, other = V.select([1]), V.select([3])
    scope = enclosed_by([11], [13])
    with (
        steered_where(plain.model, one, [4.0] * 4, scope, MASK, (C, THRESHOLD, 1)),
        steered_where(plain.model, other, [3.0] * 4, None, MASK),
    ):
        expected = written(plain, IDS, MASK, rows, use_cache=False)
    positions = faststeer.between(11, 13)
    patched.steer(V, 4.0, layers=1, positions=positions, when=condition(1), name="if")
    patched.steer(V, 3.0, layers=3, name="always")
    found = written(tiny_model, IDS, MASK, rows)
    require_equal(found, expected, unsteered)


def test_below_takes_the_other_tokens(tiny_model, patched) -> None:
    handle = patched.steer(V, 2.0, when=condition())
    tiny_model(IDS, attention_mask=MASK)
    above = handle.passed.clone()
    below = faststeer.when(C, layer=0, below=THRESHOLD, each="token")
    handle = patched.steer(V, 2.0, when=below)
    tiny_model(IDS, attention_mask=MASK)
    assert torch.equal(handle.passed ^ above, MASK.bool())
    assert above.any()
    assert handle.passed.any()
    assert "a token's cosine with 'c' at layer 0" in repr(handle)


def test_beams_take_their_hysteresis_with_them(tiny_model, patched, monkeypatch) -> None:
    ids, mask = padded((5, 7))
    how = {"num_beams": 4, "max_new_tokens": 10, "length_penalty": 0.0}
    wrong = 0
    for threshold in (0.05, 0.1, 0.15, 0.2):
        patched.steer(V, 4.0, when=condition(3, threshold))
        expected = written(tiny_model, ids, mask, [{}] * 2, use_cache=False, **how)[0]
        with monkeypatch.context() as patch:
            patch.setattr(SequenceMemory, "reorder", lambda self, lines: None)
            wrong += not torch.equal(written(tiny_model, ids, mask, [{}] * 2, **how)[0], expected)
        assert torch.equal(written(tiny_model, ids, mask, [{}] * 2, **how)[0], expected)
    assert wrong


def test_rejected_tokens_do_not_prolong_it(tiny_model, patched, make_tiny) -> None:
    ids, mask = IDS[1:2], MASK[1:2]
    how = {"max_new_tokens": 16, "assistant_model": make_tiny(layers=2)}
    for threshold in (0.05, 0.1, 0.15):
        patched.steer(V, 3.0, when=condition(4, threshold))
        expected = written(tiny_model, ids, mask, [{}], max_new_tokens=16, use_cache=False)[0]
        assert torch.equal(written(tiny_model, ids, mask, [{}], **how)[0], expected)


def test_a_compiled_decode_decides_on_the_device_without_recompiling(make_tiny) -> None:
    model = make_tiny(layers=4)
    with faststeer.patch(model) as patched, torch.inference_mode():
        patched.steer(V, 3.0, when=condition(2))
        patched.steer(random_vector("w", [2], seed=1), 2.0, when=condition())
        require_one_graph(model, [(IDS, MASK, ROWS), (IDS[:, 1:], MASK[:, 1:], ROWS)])


def test_a_condition_of_prompts_stands_beside_it(tiny_model, patched, plain) -> None:
    places = (MASK.cumsum(1) - 1).clamp(min=0)
    out = plain(IDS, attention_mask=MASK, position_ids=places, output_hidden_states=True)
    rows = zip(out.hidden_states[1], MASK.bool(), strict=True)
    means = torch.stack([hidden[real].mean(0) for hidden, real in rows])
    similarities = torch.cosine_similarity(means, C.directions[0], dim=1).sort().values
    by_prompt = faststeer.when(C, layer=0, above=float(similarities[1:3].mean()))
    first = patched.steer(V, 2.0, layers=1, when=by_prompt, name="prompt")
    second = patched.steer(V, 3.0, layers=3, when=condition(1), name="token")
    found = written(tiny_model, IDS, MASK, ROWS)
    passed = first.passed
    assert passed.shape == (4,)
    assert int(passed.sum()) == 2
    assert second.passed.shape == (4, 1)
    with patched.rows([{"prompt": 2.0, "token": 3.0} if p else {"token": 3.0} for p in passed]):
        patched.steer(V, 2.0, layers=1, name="prompt")
        expected = written(tiny_model, IDS, MASK, ROWS)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)


def test_checkpointed_layers_decide_as_before_in_the_backward_pass(make_tiny) -> None:
    model = make_tiny()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            enable_checkpointing(model, {"use_reentrant": False})
            model.train()
        with faststeer.patch(model) as patched:
            patched.steer(V, 3.0, when=condition(2))
            model.zero_grad()
            model(IDS, attention_mask=MASK).logits.square().mean().backward()
        gradients.append(model.model.layers[0].mlp.down_proj.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0])


def test_more_sequences_than_a_graph_has_room_for_are_refused(make_tiny, monkeypatch) -> None:
    model, many = make_tiny(layers=4), torch.cat([IDS] * 5)
    monkeypatch.setattr("faststeer.steering.sequence_memory.FEWEST_SEQUENCES", 4)
    torch._dynamo.reset()
    with faststeer.patch(model) as patched, torch.inference_mode():
        patched.steer(V, 2.0, when=condition(1))
        compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
        with pytest.raises(Exception, match=r"reserve\(rows=20\) before compiling"):
            compiled(many)
        patched.reserve(rows=20)
        with warnings.catch_warnings():
            warnings.simplefilter("error", faststeer.FaststeerWarning)
            found = compiled(many).logits
        torch.testing.assert_close(found, model(many).logits, rtol=0, atol=1e-5)
    torch._dynamo.reset()


def test_a_hysteresis_needs_the_cache_that_was_followed(tiny_model, patched) -> None:
    patched.prompt_lengths = [4] * 4
    unseen = past_of(tiny_model(IDS[:, :5], use_cache=True))
    patched.steer(V, 2.0, when=condition())
    again = copy.deepcopy(unseen)
    expected = tiny_model(IDS, use_cache=False).logits[:, 5:]
    assert tiny_model(IDS[:, 5:], **past(tiny_model, again)).logits.shape == expected.shape
    patched.steer(V, 2.0, when=condition(1))
    with pytest.raises(ValueError, match="has not seen the tokens before these"):
        tiny_model(IDS[:, 5:], **past(tiny_model, unseen))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"each": "word"}, ValueError, "each='word'; expected 'prompt' or 'token'"),
        ({"hysteresis": 2}, ValueError, "it is of each='token'"),
        ({"each": "token", "hysteresis": -1}, ValueError, "at least 0 tokens"),
        ({"each": "token", "hysteresis": 1.0}, TypeError, "expected a number of tokens"),
    ],
)
def test_what_is_no_condition_by_token_is_refused(given, error, message) -> None:
    with pytest.raises(error, match=message):
        faststeer.when(C, above=0.1, **given)


def test_one_that_is_read_too_late_is_refused(patched) -> None:
    with pytest.raises(ValueError, match="too late for resid_post of layer 1"):
        patched.steer(V, when=faststeer.when(C.at(0, to=1), above=0.1, each="token"))
