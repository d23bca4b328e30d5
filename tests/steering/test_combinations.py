"""Combined features: rows with conditions, changes during a forward, nested generate, graphs."""

import pytest
import torch
from by_token import greedy, padded
from compiled_generate import At
from plain_hooks import random_vector
from renamed_arguments import past, past_of
from torch._dynamo.testing import CompileCounter

import faststeer
from faststeer.steering import condition_gates

CLOSE = {"rtol": 0, "atol": 1e-5}
IDS, MASK = padded((3, 7, 5, 7))
C, V = random_vector("c", [1]), random_vector("v", [0, 1, 2, 3], seed=1)
W = random_vector("w", [0, 1, 2, 3], seed=2)
EVERYBODY = {"above": -1.0}


@pytest.fixture
def patched(tiny_model):
    torch._dynamo.reset()
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle
    torch._dynamo.reset()


@pytest.mark.parametrize("order", ["rows of a condition", "a condition under rows"])
def test_a_row_cannot_steer_before_its_condition_is_decided(order, tiny_model, patched) -> None:
    condition = faststeer.when(C, **EVERYBODY)
    early = [{"v": {0: 2.0}}]
    if order == "rows of a condition":
        patched.steer(V, layers=3, when=condition)
        with pytest.raises(ValueError, match="layer 1, too late for resid_post of layer 0"):
            patched.rows(early)
    else:
        patched.steer(V, layers=3)
        with patched.rows(early):
            with pytest.raises(ValueError, match="row 0, 'v': the condition is decided"):
                patched.steer(V, layers=3, when=condition)
            assert patched["v"].passed is None


def test_a_replaced_vector_is_replaced_at_layers_that_only_rows_name(tiny_model, patched) -> None:
    row = [{"v": {3: 2.0}}]
    patched.steer(V, layers=1)
    with patched.rows(row):
        patched.steer(W, layers=1, name="v")
        found = tiny_model(IDS).logits
    with patched.rows(row):
        assert torch.equal(tiny_model(IDS).logits, found)


class Changes:
    """Forward hook that runs an action once."""

    def __init__(self, action) -> None:
        self.action = action

    def __call__(self, *args) -> None:
        action, self.action = self.action, lambda: None
        action()


def with_change(model, action):
    """Return the logits of a forward that runs `action` in its second layer."""
    hook = model.model.layers[1].mlp.register_forward_hook(Changes(action))
    found = model(IDS).logits
    hook.remove()
    return found


def test_a_change_during_a_forward_leaves_positions_unchanged(tiny_model, patched) -> None:
    patched.steer(V, 2.0, layers=[2, 3], positions=range(2))
    other = patched.steer(W, 0.0, layers=3, name="other")
    expected = tiny_model(IDS).logits
    assert torch.equal(
        with_change(tiny_model, lambda: setattr(other, "coefficient", 0.0)), expected
    )
    found = with_change(tiny_model, lambda: setattr(other, "coefficient", 1.0))
    assert torch.equal(tiny_model(IDS).logits, found)
    # Steering that needs token ids not recorded in this forward takes effect in the next one.
    patched.clear()
    idle = tiny_model(IDS).logits
    late = with_change(tiny_model, lambda: patched.steer(V, 2.0, layers=3, positions="last"))
    assert torch.equal(late, idle)
    assert not torch.equal(tiny_model(IDS).logits, idle)


def test_rows_set_during_a_forward_must_divide_its_batch(tiny_model, patched) -> None:
    patched.steer(V)
    rows = patched.rows([{}] * 3)
    with pytest.raises(ValueError, match="3 rows of steering for a batch of 4"):
        with_change(tiny_model, rows.__enter__)


def test_a_nested_generate_leaves_the_outer_one_s_decisions(tiny_model, patched) -> None:
    handle = patched.steer(V, 2.0, layers=[2, 3], when=faststeer.when(C, above=0.0))
    expected = greedy(tiny_model, IDS, MASK)
    passed = handle.passed.tolist()
    assert 0 < sum(passed) < 4
    others = [number for number in range(4) if passed[number] != passed[0]]
    inner = []

    def another() -> None:
        inner.append(greedy(tiny_model, IDS[others], MASK[others]))
        assert len(inner[0][0]) == len(others)

    found = greedy(tiny_model, IDS, MASK, logits_processor=[At(t9=another)])
    assert inner
    assert torch.equal(found[1], expected[1])
    assert handle.passed.tolist() == passed


def test_prompts_that_a_condition_did_not_see_do_not_pass_it(tiny_model, patched) -> None:
    patched.steer(V, 2.0, layers=3, when=faststeer.when(C, **EVERYBODY))
    with patched.off():
        idle = greedy(tiny_model, IDS, MASK)
        cached = past_of(tiny_model(IDS))
        alone = tiny_model(IDS[:, :1], **past(tiny_model, cached)).logits
    assert not torch.equal(greedy(tiny_model, IDS, MASK)[1], idle[1])  # all pass
    with patched.rows([{}] * 4) as rows:

        def begin() -> None:
            for number in range(4):
                rows[number] = {"v": 2.0}

        found = greedy(tiny_model, IDS, MASK, logits_processor=[At(t9=begin)])
    assert torch.equal(found[1], idle[1])
    tiny_model(IDS)
    with patched.off():
        cached = past_of(tiny_model(IDS))
    patched.prompt_lengths = [7] * 4
    assert torch.equal(tiny_model(IDS[:, :1], **past(tiny_model, cached)).logits, alone)


@pytest.mark.parametrize(
    "how", [{"positions": "generated"}, {"when": faststeer.when(C, above=0.1)}]
)
def test_guidance_by_other_prompts_is_refused_if_prompts_matter(how, tiny_model, patched) -> None:
    patched.steer(V, layers=3, **how)
    with pytest.raises(ValueError, match=r"guidance_scale=1\.5 calls the model with other"):
        greedy(tiny_model, IDS, MASK, guidance_scale=1.5)
    patched.steer(V, layers=3)
    greedy(tiny_model, IDS, MASK, guidance_scale=1.5)


def test_gradients_of_a_token_that_is_zero_are_finite_with_modes(make_tiny) -> None:
    model = make_tiny(layers=2)
    with torch.no_grad():
        model.model.embed_tokens.weight[0] = 0.0  # like a padding token's embedding
    with faststeer.patch(model) as patched:
        patched.ablate(C)
        learned = patched.learn(random_vector("l", [0]))
        model(IDS * MASK).logits.square().mean().backward()
    gradients = [p.grad for p in (*model.parameters(), *learned.parameters())]
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.slow
def test_a_learned_vector_compiles_in_one_graph_and_gets_the_eager_gradient(make_tiny) -> None:
    torch._dynamo.reset()
    model, counted = make_tiny(layers=2), CompileCounter()
    with faststeer.patch(model) as patched:
        learned = patched.learn(random_vector("l", [0, 1]), 2.0)
        compiled = torch.compile(model, fullgraph=True, backend=counted)
        with torch.no_grad():
            for _ in range(2):
                torch.testing.assert_close(compiled(IDS).logits, model(IDS).logits, **CLOSE)
                learned.coefficient.mul_(0.5)
        assert counted.frame_count == 1
        gradients = []
        for one in (compiled, model):
            learned.zero_grad()
            one(IDS).logits.square().mean().backward()
            gradients.append([parameter.grad for parameter in learned.parameters()])
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected)
    torch._dynamo.reset()


@pytest.mark.slow
def test_other_positions_under_a_graph_give_a_warning(tiny_model, patched) -> None:
    for name, positions in (("a", "prompt"), ("b", range(2)), ("c", range(1, 3))):
        patched.steer(V, positions=positions, name=name)
    compiled = torch.compile(tiny_model, fullgraph=True, backend="eager")
    compiled(IDS)
    for change in (
        patched["b"].remove,
        lambda: patched.steer(V, positions="last", name="d"),
        patched["a"].remove,
        lambda: patched.steer(V, layers=3, when=faststeer.when(C, **EVERYBODY), name="e"),
    ):
        with pytest.warns(faststeer.FaststeerWarning, match="positions or conditions: compiled"):
            change()
        torch.testing.assert_close(compiled(IDS).logits, tiny_model(IDS).logits, **CLOSE)


@pytest.mark.slow
def test_conditions_have_room_for_a_large_batch_in_a_graph(
    tiny_model, patched, monkeypatch
) -> None:
    many = torch.cat([IDS] * 20)
    patched.steer(V, 2.0, layers=3, when=faststeer.when(C, above=0.0))
    compiled = torch.compile(tiny_model, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(many).logits, tiny_model(many).logits, **CLOSE)
    monkeypatch.setattr(patched.plan.forward, "gates", small_gates(monkeypatch, patched))
    with pytest.raises(Exception, match=r"reserve\(rows=80\) before compiling"):
        compiled(many)
    compiled(IDS)
    with pytest.warns(faststeer.FaststeerWarning, match="decides on 80 sequences, more than ever"):
        tiny_model(many)
    torch.testing.assert_close(compiled(many).logits, tiny_model(many).logits, **CLOSE)


def small_gates(monkeypatch, patched) -> condition_gates.ConditionGates:
    monkeypatch.setattr(condition_gates, "FEWEST_SEQUENCES", 4)
    few = condition_gates.ConditionGates(torch.device("cpu"))
    few.set_conditions(patched.plan.forward.gates.conditions)
    return few


def test_unpatching_gives_no_warning(tiny_model, recwarn) -> None:
    with faststeer.patch(tiny_model) as patched, torch.inference_mode():
        patched.steer(V, positions="prompt")
        torch.compile(tiny_model, fullgraph=True, backend="eager")(IDS)
    assert not [w for w in recwarn if issubclass(w.category, faststeer.FaststeerWarning)]
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p.steer(V, when="about"), TypeError, "when= got a str"),
        (lambda p: p.steer(V, 10**400), ValueError, "coefficient of 'v' is inf"),
        (lambda p: faststeer.when("v", above=0.1), TypeError, r"when\(\) got a str"),
        (lambda p: faststeer.when(C, above="x"), TypeError, r"when\(\) got a str; expected a cos"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_with_a_clear_error(
    call, error, message, patched
) -> None:
    with pytest.raises(error, match=message):
        call(patched)
    assert patched.handles == []
