"""Forwards of generated tokens alone are steered as ever, without looking at each token."""

import pytest
import torch
from by_token import padded
from plain_hooks import random_vector

import faststeer
from faststeer.patching.call_tokens import CallTokens
from faststeer.steering.forward_context import ForwardContext
from faststeer.steering.positions import scope_of
from faststeer.steering.scopes import Scope
from faststeer.steering.token_positions import PromptLayout, TokenPositions

IDS, MASK = padded((7, 3, 5))
V, W = random_vector("v", [1, 2]), random_vector("w", [1, 3], seed=1)
SCOPES = [
    ("prompt", False),
    ("generated", True),
    ("from_last_prompt", True),
    ("last", False),
    (slice(-3, None), True),
    (slice(0, None), True),
    (slice(None, -1), False),
    (slice(9, None), None),
    (slice(None, 9), None),
    (slice(-2, 9), None),
]


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Return which of the two ways each forward of a group with a scope takes."""
    taken: list[str] = []
    select, generated = ForwardContext.select, ForwardContext.select_generated

    def counted_select(self, tokens) -> None:
        taken.append("select")
        select(self, tokens)

    def counted_generated(self) -> bool:
        done = generated(self)
        if done:
            taken.append("generated")
        return done

    monkeypatch.setattr(ForwardContext, "select", counted_select)
    monkeypatch.setattr(ForwardContext, "select_generated", counted_generated)
    return taken


@pytest.mark.parametrize(("positions", "expected"), SCOPES)
def test_a_scope_states_what_its_mask_is_for_generated_tokens(positions, expected) -> None:
    scope = scope_of(positions)
    assert isinstance(scope, Scope)
    assert scope.generated is expected
    prompts = PromptLayout.masked(MASK, IDS)
    columns = torch.arange(20) + prompts.columns
    tokens = TokenPositions(prompts.at(columns), prompts.lengths[:, None], columns, prompts)
    mask = scope.mask(tokens)
    if expected is None:
        assert mask.any()
        assert not mask.all()
    else:
        assert (mask == expected).all()


def test_a_mask_and_a_function_depend_on_the_tokens() -> None:
    assert scope_of(MASK.bool()).generated is None
    assert scope_of(lambda positions, lengths: positions > lengths).generated is None


def generated(model, new_tokens: int = 4) -> torch.Tensor:
    output = model.generate(
        IDS,
        attention_mask=MASK,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    return torch.stack(output.logits)


def steer(patched: faststeer.Patched, how: str) -> None:
    condition = faststeer.when(random_vector("c", [0], seed=2), layer=0, above=0.0)
    if how == "all":
        patched.steer(V, 3.0, positions="generated")
    elif how == "some":
        patched.steer(V, 3.0, positions="generated")
        patched.steer(W, 3.0, positions="prompt")
        patched.steer(random_vector("u", [0, 2], seed=3), 3.0)
    elif how == "condition":
        patched.steer(V, 5.0, when=condition)
    else:
        patched.steer(V, 5.0, positions="generated", when=condition)
        patched.steer(W, 3.0, positions="prompt")


@pytest.mark.parametrize("how", ["all", "some", "condition", "both"])
@pytest.mark.parametrize("rows", [False, True])
def test_decode_steps_are_steered_as_when_every_token_is_looked_at(
    tiny_model, calls, monkeypatch, how: str, rows: bool
) -> None:
    patched = faststeer.patch(tiny_model)
    unsteered = generated(tiny_model)
    steer(patched, how)
    settings = [{"v": 1.0}, {"v": -4.0}, {"v": 2.0}] if rows else [{}]
    with patched.rows(settings) if rows else patched.rows([{"v": 3.0}]):
        found = generated(tiny_model)
        assert calls == ["select", "generated", "generated", "generated"]
        calls.clear()
        monkeypatch.setattr(CallTokens, "only_generated", lambda self: False)
        expected = generated(tiny_model)
    assert calls == ["select"] * 4
    assert torch.equal(found, expected)
    assert not torch.equal(found, unsteered)


def test_a_scope_that_depends_on_the_tokens_is_looked_up_in_each_step(tiny_model, calls) -> None:
    faststeer.patch(tiny_model).steer(V, 3.0, positions=range(2, 8))
    generated(tiny_model)
    assert calls == ["select"] * 4


def test_with_given_lengths_the_past_tells_whether_a_prompt_goes_on(tiny_model, calls) -> None:
    patched = faststeer.patch(tiny_model)
    patched.steer(V, 3.0, positions="generated")
    patched.prompt_lengths = [5]
    ids = IDS[:1]
    with torch.no_grad():
        cache = tiny_model(ids[:, :4], use_cache=True)
        name = next(n for n in ("cache", "past_key_values") if n in cache)
        tiny_model(ids[:, 4:5], use_cache=True, **{name: cache[name]})
        tiny_model(ids[:, 5:7], use_cache=True, **{name: cache[name]})
    assert calls == ["select", "select", "generated"]
    patched.prompt_lengths = [6]
    with torch.no_grad():
        tiny_model(ids[:, :1], use_cache=True, **{name: cache[name]})
    assert calls[-1] == "generated"


def test_another_number_of_prompts_is_refused_in_a_decode_step_too(tiny_model) -> None:
    patched = faststeer.patch(tiny_model)
    patched.steer(V, 3.0, positions="generated")
    patched.prompt_lengths = [5, 5]
    with torch.no_grad():
        cache = tiny_model(IDS[:2], use_cache=True)
        name = next(n for n in ("cache", "past_key_values") if n in cache)
        cache[name].batch_repeat_interleave(3)
        cache[name].batch_select_indices(torch.arange(3))
        with pytest.raises(ValueError, match="2 prompts for a batch of 3"):
            tiny_model(IDS[:3, :1], use_cache=True, **{name: cache[name]})
