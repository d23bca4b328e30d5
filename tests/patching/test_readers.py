"""Readers of a site get the residual stream as the next layer sees it."""

import pytest
import torch
from plain_hooks import hooked, random_vector
from residual_streams import SITES, residual_streams
from torch._dynamo.testing import CompileCounter

import faststeer
from faststeer.vectors.sites import Site

IDS = torch.tensor([[5, 17, 3, 99, 42, 7]])


@pytest.fixture
def found(tiny_model):
    """Return the values that each site's reader gets, of a patched model that has not run yet."""
    found = {site: [] for site in faststeer.patch(tiny_model).plan.tables}
    with faststeer.patch(tiny_model) as patched:
        for site, table in patched.plan.tables.items():
            table.readers.append(found[site].append)
        yield found


def at(found, kind, layers=4):
    calls = [found[Site.of(layer, kind)] for layer in range(layers)]
    assert all(len(seen) == 1 for seen in calls)
    return torch.cat([seen[0] for seen in calls])


@pytest.mark.parametrize("grad", [False, True])
def test_readers_see_the_stream_once_at_every_site(make_tiny, tiny_model, found, grad) -> None:
    with torch.set_grad_enabled(grad):  # norms are not fused with gradients
        tiny_model(IDS)
    stock = residual_streams(make_tiny(), IDS[0].tolist())
    for kind in SITES:
        torch.testing.assert_close(at(found, kind), stock[kind], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", SITES)
def test_readers_see_the_steered_stream(make_tiny, tiny_model, found, kind) -> None:
    vector = random_vector("v", [0, 2], site=kind)
    faststeer.patch(tiny_model).steer(vector, 3.0)
    stock, inputs = make_tiny(), []
    with torch.no_grad():
        tiny_model(IDS)
        with hooked(stock.model, [(vector, 3.0, [0, 2])]):
            for layer in stock.model.layers:  # after the hooks that steer
                layer.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
            steered = residual_streams(stock, IDS[0].tolist())
    seen = at(found, kind)
    if kind == "resid_post":
        seen, expected = seen[:-1], torch.cat(inputs[1:])
    else:
        expected = torch.cat(inputs) if kind == "resid_pre" else steered[kind]
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_reader_is_part_of_a_compiled_model_which_recompiles_only_when_one_is_added(
    make_tiny,
) -> None:
    torch._dynamo.reset()
    model = make_tiny(layers=2)
    counted = CompileCounter()
    kept = torch.zeros(64)
    with faststeer.patch(model) as patched, torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend=counted)
        compiled(IDS)
        readers = patched.plan.tables[Site(0, "resid_mid")].readers
        readers.append(lambda hidden: kept.copy_(hidden[0, -1]))
        for ids in (IDS, IDS.flip(1)):
            compiled(ids)
            seen = residual_streams(make_tiny(layers=2), ids[0].tolist())["resid_mid"][0, -1]
            torch.testing.assert_close(kept, seen, rtol=0, atol=1e-5)
        assert counted.frame_count == 2
        readers.clear()
        compiled(IDS)
        assert counted.frame_count == 2
    torch._dynamo.reset()
