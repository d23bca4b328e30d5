"""The ends of prompts are taken from every source available; calls without one are refused."""

import pytest
import torch
from by_token import greedy, padded, steered_by_token
from plain_hooks import random_vector
from renamed_arguments import enable_checkpointing, past, past_of

import faststeer

CLOSE = {"rtol": 0, "atol": 1e-5}  # see test_positions
IDS, MASK = padded((3, 7, 5))
VECTOR = random_vector("v", [0, 2])
LAST = [(VECTOR, lambda b, p, n: 2.0 * (p == n - 1))]


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle


def reference(plain, terms, ids=IDS, mask=MASK, **how):
    with steered_by_token(plain.model, terms, mask):
        return greedy(plain, ids, mask, use_cache=False, **how)


def test_embeddings_take_precedence_over_ids_as_the_prompt(tiny_model, patched, plain) -> None:
    patched.steer(VECTOR, 2.0, positions="last")
    expected = reference(plain, LAST)
    embeds = tiny_model.model.embed_tokens(IDS)
    for inputs in ({}, {"input_ids": IDS[:, -2:]}):
        tokens, scores = greedy(tiny_model, None, MASK, inputs_embeds=embeds, **inputs)
        assert torch.equal(tokens[:, -6:], expected[0][:, -6:])
        torch.testing.assert_close(scores, expected[1], **CLOSE)


@pytest.mark.parametrize("positions", ["generated", "last"])
def test_assisted_decoding_steers_every_verified_token(
    positions, tiny_model, patched, plain
) -> None:
    """It passes several tokens at once, and rejects some of them."""
    ids, mask = padded((7,))
    patched.steer(VECTOR, 1.0, positions=positions)
    counts = []
    tiny_model.model.register_forward_pre_hook(
        lambda decoder, args, kwargs: counts.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    inside = {"generated": lambda b, p, n: p >= n, "last": lambda b, p, n: p == n - 1}[positions]
    expected = reference(plain, [(VECTOR, inside)], ids, mask, max_new_tokens=12)
    found = greedy(tiny_model, ids, mask, max_new_tokens=12, assistant_model=plain)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], **CLOSE)
    assert max(counts[1:]) > 1
    assert sum(counts) > 7 + 11  # some were rejected


def test_a_cached_forward_with_an_unknown_prompt_is_refused(tiny_model, patched) -> None:
    idle = tiny_model(IDS).logits
    cache = past_of(tiny_model(IDS[:, :4]))
    patched.steer(VECTOR, 2.0, positions="last")
    tiny_model.generate(IDS, max_new_tokens=2)  # its prompt lengths are forgotten afterwards
    with pytest.raises(ValueError, match="set patched\\.prompt_lengths to a"):
        tiny_model(IDS[:, 4:], **past(tiny_model, cache))
    made = torch.ones(3, 1, 7, 7, dtype=torch.bool).tril()
    for mask in (made, {"full_attention": made}):
        with pytest.raises(ValueError, match="an attention mask of two dimensions"):
            tiny_model(IDS, attention_mask=mask)
    with patched.off():
        rest = tiny_model(IDS[:, 4:], **past(tiny_model, cache)).logits
    torch.testing.assert_close(rest, idle[:, 4:], **CLOSE)
    with patched.rows([{}]):  # no sequence is steered by position
        tiny_model(IDS[:, :1], **past(tiny_model, cache))
    patched.prompt_lengths = torch.tensor([7, 7])
    with pytest.raises(ValueError, match="there are 2 prompts for a batch of 3"):
        tiny_model(IDS)
    patched.prompt_lengths = None
    tiny_model(IDS)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (torch.tensor([2.0]), TypeError, "torch.float32; expected whole numbers"),
        ([True], TypeError, "torch.bool; expected whole numbers"),
        ([[3]], ValueError, "shape \\(1, 1\\); expected \\[B\\]"),
        ([], TypeError, "expected whole numbers"),
        ([3, 0], ValueError, "holds 0; a prompt has a token"),
    ],
)
def test_invalid_prompt_lengths_are_refused(lengths, error, message, patched) -> None:
    with pytest.raises(error, match=message):
        patched.prompt_lengths = lengths
    assert patched.prompt_lengths is None


def test_packed_sequences_are_refused_with_a_clear_error(tiny_model, patched) -> None:
    ends = torch.tensor([0, 3, 7], dtype=torch.int32)
    numbers = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    how = [{"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}, {"position_ids": numbers}]
    ids = IDS[1:2]
    patched.steer(VECTOR)
    tiny_model(ids, position_ids=numbers, use_cache=False)  # equal ones are accepted
    for kwargs in how:
        with patched.rows([{}]), pytest.raises(ValueError, match="packed into one"):
            tiny_model(ids, use_cache=False, **kwargs)
    patched.steer(VECTOR, positions="last")
    for kwargs in how:
        with pytest.raises(ValueError, match="packed into one"):
            tiny_model(ids, use_cache=False, **kwargs)


@pytest.mark.parametrize(
    ("positions", "error", "message"),
    [
        ("promt", ValueError, "'promt' is unknown; expected one of 'all', 'prompt', 'generated'"),
        (range(0, 9, 2), ValueError, "has a step; give a function"),
        (slice(0, 9, 2), ValueError, "has a step; give a function"),
        (range(3, 3), ValueError, "is empty; slice\\(3, 3\\)"),
        (range(0, -2), ValueError, "is empty; slice\\(0, -2\\) may be meant"),
        (range(-2, 3), ValueError, "past the prompt's end.*slice\\(-2, None\\)"),
        (torch.ones(7), TypeError, "torch.float32 tensor of shape \\(7,\\); expected bool"),
        (torch.ones(1, 1, 7).bool(), TypeError, "shape \\(1, 1, 7\\); expected bool, \\[P\\] or"),
        (torch.tensor([0, 1]), TypeError, "for position numbers give a list, such as \\[0, 1\\]"),
        ([], ValueError, "positions= is an empty list"),
        ([True, False], TypeError, "positions= holds a bool; expected .* or a bool tensor"),
        ([[0], [1]], TypeError, "positions= holds a list"),
        (0, TypeError, "positions= is a int; expected a name, .* such as \\[0, 1\\]"),
    ],
)
def test_invalid_positions_are_refused(positions, error, message, patched) -> None:
    with pytest.raises(error, match=message):
        patched.steer(VECTOR, positions=positions)
    assert patched.handles == []


def test_a_mask_for_other_sequences_and_a_function_without_one_are_refused(
    tiny_model, patched
) -> None:
    patched.steer(VECTOR, positions=torch.ones(2, 7).bool())
    with pytest.raises(ValueError, match="marks 2 sequences, but the batch has 3"):
        tiny_model(IDS)
    patched.steer(VECTOR, positions=lambda positions, lengths: positions)
    with pytest.raises(TypeError, match="has to return a bool tensor"):
        tiny_model(IDS)


def test_a_failed_forward_leaves_no_state_to_the_next(tiny_model, patched) -> None:
    patched.steer(VECTOR, 2.0, positions="last")
    expected = tiny_model(IDS).logits

    def fail(*args):
        raise KeyboardInterrupt

    hook = tiny_model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        tiny_model(IDS[:, :5])
    with pytest.raises(KeyboardInterrupt):
        tiny_model.generate(IDS, max_new_tokens=2)
    hook.remove()
    assert torch.equal(tiny_model(IDS).logits, expected)


def test_a_forward_that_finds_layers_on_another_device_keeps_positions(tiny_model, patched) -> None:
    patched.steer(VECTOR, 2.0, positions="last")
    expected = tiny_model(IDS).logits
    for site in list(patched.plan.tables.devices)[:3]:
        patched.plan.tables.move(site, torch.device("meta"))
    assert torch.equal(tiny_model(IDS).logits, expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_are_recomputed_with_their_positions(make_tiny, reentrant) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = make_tiny().train()
        if checkpointed:
            enable_checkpointing(model, {"use_reentrant": reentrant})
        with faststeer.patch(model) as patched:
            patched.steer(random_vector("v", [1], site="resid_mid"), 2.0, positions="last")
            model(IDS, use_cache=False).logits.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)
