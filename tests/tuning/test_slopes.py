"""Gradients in coefficients: finite differences, and divergences of small coefficients."""

from __future__ import annotations

import pytest
import torch
from plain_hooks import random_vector
from tiny import ByteTokenizer, make_tiny_model
from tiny_families import MORE

import faststeer
from faststeer.data.trait_files import OpenPrompt
from faststeer.diagnostics.tuning.budget import damages
from faststeer.diagnostics.tuning.objectives import PairItems, PromptItems, TextObjective
from faststeer.diagnostics.tuning.slopes import Place, Slopes, slopes_at
from faststeer.evaluate.next_token import ScoredTexts
from faststeer.evaluate.tasks import Subject
from faststeer.steering.plan import Row

PAIRS = [(f"so {n} it is{'!' * n}", f"so {n} was that") for n in range(5)]
PROMPTS = [OpenPrompt(f"and {n}", (" a", " bc"), (" d", " ef", " eg")) for n in range(5)]
TEXTS = ["a plain text about nothing", "another one, of other length", "third"]
FAMILIES = ["Llama", "Qwen2", "Gemma2", "Gemma3", "Mixtral"]


def subject_of(model, tokenizer) -> Subject:
    return Subject(faststeer.patch(model), model, tokenizer, batch_size=3)


def objective_of(kind: str, model, tokenizer) -> TextObjective:
    if kind == "pairs":
        return PairItems(model, tokenizer, PAIRS)
    return PromptItems(model, tokenizer, PROMPTS)


def measured(
    subject: Subject, objective: TextObjective, names: list[str], vectors, rows: list[Row]
) -> torch.Tensor:
    """Return the mean scores under rows, by the evaluation that has no gradients."""
    handles = [
        subject.patched.steer(vector, 0.0, name=name, layers=vector.layers)
        for name, vector in zip(names, vectors, strict=True)
    ]
    try:
        return objective.measure(subject, rows)[:-1].mean(1)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", ["pairs", "prompts"])
@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_equal_finite_differences_at_every_layer(family, kind) -> None:
    model, tokenizer = make_tiny_model(family=family, **MORE[family]), ByteTokenizer()
    vectors = [
        random_vector("v", layers=(0, 1, 3), seed=1),
        random_vector("w", layers=(2,), seed=2),
    ]
    places = [Place(0, 0), Place(0, 1), Place(0, 3), Place(1, 2)]
    start = [0.1, -0.2, 0.3, 0.05]
    subject = subject_of(model, tokenizer)
    objective = objective_of(kind, model, tokenizer)
    with slopes_at(subject, vectors, places) as slopes:
        slopes.set(start)
        found = slopes.effect(objective)
    step = 1e-2
    rows = [_row(places, [c + sign * step * (n == at) for n, c in enumerate(start)])
            for at in range(4) for sign in (1, -1)]  # fmt: skip
    scores = measured(subject, objective, ["v", "w"], vectors, rows).view(4, 2)
    expected = (scores[:, 0] - scores[:, 1]) / (2 * step)
    assert expected.abs().min() > 1e-3  # of each place there is something to find
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-2)


def _row(places: list[Place], coefficients: list[float]) -> Row:
    row: dict[str, dict[int, float]] = {}
    for place, coefficient in zip(places, coefficients, strict=True):
        row.setdefault("vw"[place.vector], {})[place.layer] = coefficient
    return row


def test_the_curvature_predicts_the_divergence_of_small_coefficients(
    tiny_model, byte_tokenizer
) -> None:
    vectors = [random_vector("v", layers=(1, 3), seed=1)]
    places = [Place(0, 1), Place(0, 3)]
    subject = subject_of(tiny_model, byte_tokenizer)
    texts = ScoredTexts(tiny_model, byte_tokenizer, TEXTS, None)
    with slopes_at(subject, vectors, places) as slopes:
        curvature = slopes.curvature(texts, 400, torch.Generator().manual_seed(0))
    torch.testing.assert_close(curvature, curvature.T)
    handle = subject.patched.steer(vectors[0], 0.0, name="v")
    for small in (
        torch.tensor([0.02, 0.0]),
        torch.tensor([0.0, 0.02]),
        torch.tensor([0.02, -0.02]),
    ):
        own = small.double()
        row = {"v": dict(zip((1, 3), small.tolist(), strict=True))}
        [damage] = damages(subject, texts, [row])
        assert 0.5 * float(own @ curvature @ own) == pytest.approx(damage.kl, rel=0.15)
    handle.remove()


def test_layers_below_the_first_place_run_once(tiny_model, byte_tokenizer) -> None:
    vectors = [random_vector("v", layers=(2, 3), seed=1)]
    subject = subject_of(tiny_model, byte_tokenizer)
    objective = PairItems(tiny_model, byte_tokenizer, PAIRS)
    runs = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda *_, n=n: runs.append(n))
        for n, layer in enumerate(tiny_model.model.layers)
    ]
    with slopes_at(subject, vectors, [Place(0, 2), Place(0, 3)]) as slopes:
        first = slopes.effect(objective)
        runs.clear()
        again = slopes.effect(objective)
    for hook in hooks:
        hook.remove()
    assert set(runs) == {3}  # nothing below what layer 2 adds to
    torch.testing.assert_close(again, first)


def test_only_the_coefficients_get_gradients_and_nothing_stays(tiny_model, byte_tokenizer) -> None:
    before = torch.arange(8)[None]
    plain = tiny_model(before).logits
    vectors = [random_vector("v", layers=(1,), seed=1)]
    subject = subject_of(tiny_model, byte_tokenizer)
    with slopes_at(subject, vectors, [Place(0, 1)]) as slopes:
        slopes.set([0.5])
        slopes.effect(PairItems(tiny_model, byte_tokenizer, PAIRS))
        assert isinstance(slopes, Slopes)
        assert not torch.equal(tiny_model(before).logits, plain)
    assert all(parameter.grad is None for parameter in tiny_model.parameters())
    assert not subject.patched.plan.learned
    torch.testing.assert_close(tiny_model(before).logits, plain)
