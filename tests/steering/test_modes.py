"""Projection, clamping and norm preservation on a model, per token, against plain hooks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from by_token import greedy, padded
from plain_hooks import random_vector
from torch import Tensor
from torch.nn.functional import normalize

import faststeer

CLOSE = {"rtol": 0, "atol": 2e-5}
IDS, MASK = padded((3, 7, 5, 7))
D = normalize(torch.randn(64, generator=torch.Generator().manual_seed(7)), dim=0)
SITES = ("resid_pre", "resid_mid", "resid_post")


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        yield handle


@contextmanager
def changed(decoder, change: Callable[[Tensor], Tensor], places) -> Iterator[None]:
    """Apply `change` to the residual stream ``[B, T, H]`` at each (layer, site), by hooks."""
    with ExitStack() as stack:
        for layer, site in places:
            block = decoder.layers[layer]
            entered = {}
            if site == "resid_post":
                hook = block.register_forward_hook(lambda m, args, out: change(out))
            elif site == "resid_pre":
                hook = block.register_forward_pre_hook(
                    lambda m, args: (change(args[0]), *args[1:]), prepend=True
                )
            else:
                note = block.register_forward_pre_hook(
                    lambda m, args, entered=entered: entered.update(h=args[0])
                )
                stack.callback(note.remove)
                hook = block.self_attn.register_forward_hook(
                    lambda m, args, out, entered=entered: (
                        change(entered["h"] + out[0]) - entered["h"],
                        *out[1:],
                    )
                )
            stack.callback(hook.remove)
        yield


def projected(h: Tensor, fraction: float = 1.0, direction: Tensor = D) -> Tensor:
    return h - fraction * (h @ direction)[..., None] * direction


def clamped(h: Tensor, value: float) -> Tensor:
    return h + (value - h @ D)[..., None] * D


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(
    ("mode", "coefficient", "change"),
    [
        ("project", 1.0, projected),
        ("project", 0.4, lambda h: projected(h, 0.4)),
        ("clamp", -3.0, lambda h: clamped(h, -3.0)),
    ],
)
def test_a_mode_equals_a_hook_at_its_site(
    mode, coefficient, change, site, tiny_model, patched, plain
) -> None:
    vector = faststeer.SteeringVector("d", {0: 5 * D, 2: 3 * D}, site)  # with any norm
    patched.steer(vector, coefficient, mode=mode)
    with changed(plain.model, change, [(0, site), (2, site)]):
        expected = plain(IDS).logits
    torch.testing.assert_close(tiny_model(IDS).logits, expected, **CLOSE)
    assert not torch.allclose(expected, plain(IDS).logits, atol=1e-2)


def test_ablation_removes_a_direction_at_every_site(tiny_model, patched, plain) -> None:
    patched.ablate(faststeer.SteeringVector("d", {2: 5 * D}))
    seen = []
    for table in patched.plan.tables.values():
        table.readers.append(lambda h: seen.append((h @ D).abs().max()))
    found = tiny_model(IDS).logits
    assert len(seen) == 9  # 4 layers with two sites, and the embedding
    assert torch.stack(seen).max() < 1e-5
    every = [(0, "resid_pre"), *((layer, site) for layer in range(4) for site in SITES[1:])]
    with changed(plain.model, projected, every):
        torch.testing.assert_close(found, plain(IDS).logits, **CLOSE)


def test_additions_come_first_and_projections_in_the_order_of_steering(
    tiny_model, patched, plain
) -> None:
    v, other = (
        random_vector("v", [1]),
        normalize(D + 0.5 * random_vector("o", [1]).directions[1], dim=0),
    )
    patched.steer(faststeer.SteeringVector("d", {1: D}), 2.0, mode="clamp")
    patched.steer(v, 3.0)
    patched.steer(faststeer.SteeringVector("o", {1: other}), 1.0, mode="project")

    def change(h: Tensor) -> Tensor:
        return projected(clamped(h + 3.0 * v.directions[1], 2.0), 1.0, other)

    with changed(plain.model, change, [(1, "resid_post")]):
        torch.testing.assert_close(tiny_model(IDS).logits, plain(IDS).logits, **CLOSE)


def test_each_row_has_its_own_fraction_and_an_empty_row_its_own_bits(
    tiny_model, patched, plain
) -> None:
    idle = tiny_model(IDS).logits
    patched.steer(faststeer.SteeringVector("d", {1: D, 2: D}), mode="project")
    patched.steer(random_vector("v", [1]), 2.0)
    with patched.rows([{"d": 1.0}, {}, {"d": {2: 0.5}, "v": 1.0}, {"v": 2.0}]):
        found = tiny_model(IDS).logits
    assert torch.equal(found[1], idle[1])
    v = random_vector("v", [1]).directions[1]
    for row, first, second in (
        (0, projected, projected),
        (2, lambda h: h + v, lambda h: projected(h, 0.5)),
        (3, lambda h: h + 2 * v, lambda h: h),
    ):
        with (
            changed(plain.model, first, [(1, "resid_post")]),
            changed(plain.model, second, [(2, "resid_post")]),
        ):
            torch.testing.assert_close(found[row], plain(IDS).logits[row], **CLOSE)


def test_a_projection_of_generated_tokens_does_not_change_the_prompt(
    tiny_model, patched, plain
) -> None:
    new = 4
    patched.steer(faststeer.SteeringVector("d", {1: D}), mode="project", positions="generated")
    tokens, scores = greedy(tiny_model, IDS, MASK, max_new_tokens=new)
    prompt = IDS.shape[1]

    def change(h: Tensor) -> Tensor:
        return torch.cat([h[:, :prompt], projected(h[:, prompt:])], 1)

    mask = torch.cat([MASK, torch.ones(len(IDS), new, dtype=MASK.dtype)], 1)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with changed(plain.model, change, [(1, "resid_post")]):
        logits = plain(tokens, attention_mask=mask, position_ids=places).logits
    torch.testing.assert_close(scores, logits[:, prompt - 1 : -1], **CLOSE)


def test_a_preserved_norm_is_the_norm_before_all_steering_of_that_site(
    tiny_model, patched, plain
) -> None:
    v, w = random_vector("v", [1, 2]), random_vector("w", [1])
    patched.steer(v, 20.0, layers=1, keep_norm=True)
    patched.steer(w, -10.0)
    patched.steer(v, 5.0, layers=2, name="plain")

    def change(h: Tensor) -> Tensor:
        moved = h + 20.0 * v.directions[1] - 10.0 * w.directions[1]
        return moved * h.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)

    with (
        changed(plain.model, change, [(1, "resid_post")]),
        changed(plain.model, lambda h: h + 5.0 * v.directions[2], [(2, "resid_post")]),
    ):
        torch.testing.assert_close(tiny_model(IDS).logits, plain(IDS).logits, **CLOSE)


def test_tokens_without_the_norm_preserving_vector_are_not_rescaled(tiny_model, patched) -> None:
    idle = tiny_model(IDS).logits
    patched.steer(random_vector("v", [1]), 20.0, keep_norm=True, positions=range(3, 5))
    assert torch.equal(tiny_model(IDS).logits[:, :3], idle[:, :3])
    assert not torch.equal(tiny_model(IDS).logits[:, 3:], idle[:, 3:])


def test_a_coefficient_can_change_in_every_mode_and_off_disables_it(tiny_model, patched) -> None:
    idle = tiny_model(IDS).logits
    handle = patched.steer(faststeer.SteeringVector("d", {1: D}), 1.0, mode="clamp")
    seen = []
    patched.plan.tables[next(iter(handle.sites))].readers.append(lambda h: seen.append(h @ D))
    for value in (1.0, -4.0):
        handle.coefficient = value
        tiny_model(IDS)
        torch.testing.assert_close(seen[-1], torch.full(IDS.shape, value))
    with patched.off():
        assert torch.equal(tiny_model(IDS).logits, idle)
    handle.remove()
    assert torch.equal(tiny_model(IDS).logits, idle)


def test_a_learned_vector_works_beside_a_projection(tiny_model) -> None:
    v = random_vector("v", [1])
    with faststeer.patch(tiny_model) as patched:
        patched.steer(faststeer.SteeringVector("d", {1: D}), mode="project")
        learned = patched.learn(v, 2.0)
        seen = []
        patched.plan.tables[next(iter(patched["d"].sites))].readers.append(seen.append)
        tiny_model(IDS).logits.square().mean().backward()
        assert (seen[0] @ D).abs().max() < 1e-5
        (direction,) = learned.directions.values()
        assert direction.grad.norm() > 0
        # Additions along the projected direction have no effect.
        assert abs(float(direction.grad @ D)) < 1e-4 * float(direction.grad.norm())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"mode": "subtract"}, "mode 'subtract' is unknown; expected one of add, project, clamp"),
        ({"mode": "project", "layers": 2}, "layer 2: a zero cannot be normalised"),
        ({"mode": "clamp", "coefficient": float("inf")}, "coefficient of 'd' is inf"),
    ],
)
def test_an_invalid_mode_is_refused_before_anything_changes(how, message, patched) -> None:
    vector = faststeer.SteeringVector("d", {1: D, 2: 0 * D})
    with pytest.raises(ValueError, match=message):
        patched.steer(vector, **how)
    assert patched.handles == []
    with pytest.raises(ValueError, match=r"layers \[1, 2\]; say which"):
        patched.ablate(vector)


def test_compiled_models_follow_fractions_rows_and_off_without_recompiling(
    tiny_model, patched
) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(tiny_model, fullgraph=True, backend="eager")
    idle = tiny_model(IDS).logits
    handle = patched.steer(faststeer.SteeringVector("d", {1: D}), mode="project")
    patched.steer(random_vector("v", [1, 2]), 2.0, keep_norm=True)
    torch.testing.assert_close(compiled(IDS).logits, tiny_model(IDS).logits, **CLOSE)
    with torch._dynamo.config.patch(error_on_recompile=True):
        handle.coefficient = 0.3
        torch.testing.assert_close(compiled(IDS).logits, tiny_model(IDS).logits, **CLOSE)
        with patched.rows([{"d": 1.0}, {}, {"v": 1.0}, {"v": 1.0, "d": 0.5}]):
            torch.testing.assert_close(compiled(IDS).logits, tiny_model(IDS).logits, **CLOSE)
        with patched.off():
            torch.testing.assert_close(compiled(IDS).logits, idle, **CLOSE)
    torch._dynamo.reset()


def test_the_first_mode_under_a_graph_gives_a_warning(tiny_model, patched) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(tiny_model, fullgraph=True, backend="eager")
    compiled(IDS)
    with pytest.warns(faststeer.FaststeerWarning, match="will recompile"):
        patched.steer(faststeer.SteeringVector("d", {1: D}), mode="project")
    torch.testing.assert_close(compiled(IDS).logits, tiny_model(IDS).logits, **CLOSE)
    torch._dynamo.reset()
