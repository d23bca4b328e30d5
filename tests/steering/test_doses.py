"""An implausible dose gives one warning with its figures; later forwards cost nothing more."""

from __future__ import annotations

import re
import warnings
from collections import Counter

import pytest
import torch
from by_token import greedy, padded
from plain_hooks import random_vector
from residual_streams import residual_streams
from torch._dynamo.testing import CompileCounter
from torch.profiler import ProfilerActivity, profile

import faststeer

IDS, MASK = padded((3, 7, 5))
V = random_vector("v", [1, 2])


@pytest.fixture
def patched(tiny_model):
    with faststeer.patch(tiny_model) as handle, torch.inference_mode():
        handle.model = tiny_model
        yield handle


def warned(action) -> list[str]:
    """Return the messages of FaststeerWarning that the call gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(one.message) for one in caught if one.category is faststeer.FaststeerWarning]


def run(patched) -> None:
    patched.model(IDS, attention_mask=MASK)


def median_norm(plain, layer: int, site: str = "resid_post") -> float:
    """Return the unsteered stream's median norm over all real tokens but each text's first."""
    rows = [ids[mask.bool()] for ids, mask in zip(IDS, MASK, strict=True)]
    norms = [residual_streams(plain, row.tolist())[site][layer][1:].norm(dim=-1) for row in rows]
    return float(torch.cat(norms).median())


def readers(patched) -> int:
    return sum(len(table.readers) for table in patched.plan.tables.values())


def test_a_zero_vector_gives_a_warning_at_once_with_its_layers(patched) -> None:
    zeros = faststeer.SteeringVector("nil", {0: torch.ones(64), 2: torch.zeros(64)})
    with pytest.warns(faststeer.FaststeerWarning, match="'nil' is zero at layer 2: adding it") as w:
        patched.steer(zeros)
    assert w[0].filename == __file__
    assert warned(lambda: patched.steer(zeros, layers=0, name="nil")) == []


@pytest.mark.parametrize("site", ["resid_pre", "resid_mid", "resid_post"])
@pytest.mark.parametrize(("share", "why"), [(0.004, "under 0.01"), (25.0, "over 10 replaces")])
def test_a_dose_out_of_range_gives_a_warning_with_the_stream_s_norm(
    share, why, site, patched, plain
) -> None:
    stream = median_norm(plain, 2, site)
    vector = faststeer.SteeringVector("odd", {2: V.directions[2]}, site)
    norm = float(V.directions[2].norm())
    patched.steer(vector, share * stream / norm)
    [message] = warned(lambda: run(patched))
    assert why in message
    assert "vector 'odd' at layer 2" in message
    figures = re.search(r"is (\S+) times the residual stream's median norm (\S+);", message)
    assert figures
    assert float(figures[1]) == pytest.approx(share, rel=0.06)  # two digits, without padding
    assert float(figures[2]) == pytest.approx(stream, rel=0.006)


def test_the_norm_excludes_this_addition_under_scopes_and_beside_other_vectors(
    patched, plain
) -> None:
    stream = median_norm(plain, 2)
    patched.steer(random_vector("other", [2], seed=4), 3.0, positions="prompt")
    patched.steer(V, 30 * stream, layers=2, positions="last")
    [message] = warned(lambda: run(patched))
    assert f"median norm {stream:.3g};" in message


def test_usual_doses_and_a_weak_layer_beside_others_give_no_warning(patched) -> None:
    patched.steer(V, 1.0)
    patched.steer(V, 2.0, layers={1: 1e-4, 2: 1.0}, name="uneven")
    assert warned(lambda: run(patched)) == []


def test_each_magnitude_of_a_handle_gives_one_warning(patched) -> None:
    handle = patched.steer(V, 1e-4)
    assert len(warned(lambda: run(patched))) == 1
    assert warned(lambda: run(patched)) == []
    handle.coefficient = -1e-4
    assert warned(lambda: run(patched)) == []
    # The stream's norm is known: no other forward measures it.
    [message] = warned(lambda: setattr(handle, "coefficient", 1e4))
    assert "over 10 replaces" in message
    assert not patched.plan.doses.due
    assert warned(lambda: run(patched)) == []
    handle.coefficient = 1e-4
    assert warned(lambda: run(patched)) == []
    handle.coefficient = 0.0
    assert warned(lambda: run(patched)) == []


def test_only_the_first_forward_measures_and_no_reader_remains(patched) -> None:
    def ops() -> Counter[str]:
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            run(patched)
        return Counter(event.name for event in profiled.events())

    patched.plan.doses.judged = False
    patched.steer(V)
    ops()
    never = ops()
    patched.plan.doses.judged = True
    patched.steer(V)
    assert ops() != never  # it measured
    assert readers(patched) == 0
    assert ops() == never


def test_after_a_failed_forward_the_next_one_measures_and_no_reader_remains(patched) -> None:
    def fail(*given):
        raise KeyboardInterrupt

    hook = patched.model.model.layers[1].register_forward_hook(fail)
    patched.steer(V, 1e-4)
    with pytest.raises(KeyboardInterrupt):
        run(patched)
    hook.remove()
    assert len(warned(lambda: run(patched))) == 1
    assert readers(patched) == 0


def test_while_generating_it_is_measured_once_and_tokens_are_the_same(patched) -> None:
    patched.plan.doses.judged = False
    patched.steer(V, 1e-4, positions="generated")
    expected = greedy(patched.model, IDS, MASK)
    patched.plan.doses.judged = True
    patched.steer(V, 1e-4, positions="generated")
    found = []
    [message] = warned(lambda: found.append(greedy(patched.model, IDS, MASK)))
    assert "under 0.01" in message
    assert torch.equal(found[0][1], expected[1])


def test_an_attention_sink_at_the_first_token_is_ignored(patched) -> None:
    own = patched.model.model.embed_tokens
    sink = torch.zeros(IDS.max() + 1, 64)
    sink[IDS[0, -3]] = 1e5  # the first real token of the first text, which is three tokens long
    own.register_forward_hook(lambda module, args, output: output + sink[args[0].clamp(max=511)])
    patched.steer(V, 1.0)
    alone = IDS[:1, -3:-2]
    assert warned(lambda: patched.model(alone)) == []
    assert patched.plan.doses.due  # a single first token is not informative
    assert warned(lambda: run(patched)) == []
    assert not patched.plan.doses.due


def test_a_forward_that_extraction_ends_early_leaves_no_reader(patched, byte_tokenizer) -> None:
    patched.steer(V, 1.0)
    faststeer.activations(patched.model, byte_tokenizer, ["hello!"], layers=[0], progress=False)
    assert readers(patched) == 0
    patched.clear()
    assert readers(patched) == 0


def test_rows_and_off_are_not_checked_but_later_steering_is(patched) -> None:
    patched.steer(V, 1e4)
    with patched.rows([{"v": 1e-4}, {"v": 1e4}, {}]):
        assert warned(lambda: run(patched)) == []
    with patched.off():
        assert warned(lambda: run(patched)) == []
    assert len(warned(lambda: run(patched))) == 1


def test_compiled_models_measure_nothing_and_are_not_compiled_again(make_tiny) -> None:
    torch._dynamo.reset()
    model, counter = make_tiny(layers=2), CompileCounter()
    vector = random_vector("v", [0, 1])
    with faststeer.patch(model) as patched, torch.inference_mode():
        compiled = torch.compile(model, backend=counter, fullgraph=True)
        handle = patched.steer(vector, 1.0)
        compiled(IDS)
        graphs = counter.frame_count
        for coefficient in (1e-4, 1e4):
            handle.coefficient = coefficient
            assert warned(lambda: compiled(IDS)) == []
        assert counter.frame_count == graphs
        for layer in model.model.layers:  # layers compiled individually in an eager decoder
            layer.compile(backend=counter)
        model(IDS)
        assert counter.frame_count > graphs
        graphs = counter.frame_count
        handle.coefficient = 2e4
        assert warned(lambda: model(IDS)) == []
        assert counter.frame_count == graphs
    torch._dynamo.reset()


def test_an_overflow_in_float16_is_named_with_layer_and_figures(make_tiny) -> None:
    model = make_tiny(dtype=torch.float16)
    with faststeer.patch(model) as patched, torch.inference_mode():
        patched.model = model
        patched.steer(V, 1e6, layers=1)
        messages = warned(lambda: run(patched))
    assert len(messages) == 1
    assert "not finite where vector 'v' is added, at layer 1 (float16 ends at 65504)" in messages[0]
    assert "its coefficient 1e+06" in messages[0]


def test_other_modes_and_additions_beside_them_give_no_warning(patched) -> None:
    patched.steer(V, 1e-6, mode="clamp")
    patched.steer(V, 1e-4, name="added")
    assert warned(lambda: run(patched)) == []
    assert readers(patched) == 0
    assert not patched.plan.doses.due


def shares_of(plain, directions, share: float) -> faststeer.SteeringVector:
    """Return a vector that adds `share` of the unsteered stream's median norm at each layer."""
    return faststeer.SteeringVector(
        "many", {n: share * median_norm(plain, n) * d / d.norm() for n, d in directions.items()}
    )


def test_doses_of_several_layers_are_judged_by_their_sum_in_per_cent(patched, plain) -> None:
    one, other = torch.eye(64)[:2]
    same = shares_of(plain, {0: one, 1: one, 2: one}, 0.3)
    patched.steer(same)
    [message] = warned(lambda: run(patched))
    told = re.search(r"'many' is added at 3 layers, together (\d+)% of the residual", message)
    assert told
    assert 0.7 < int(told[1]) / 100 <= 0.9 + 0.01  # earlier additions are in the later streams
    assert "steer fewer layers with layers=, or take a smaller coefficient" in message
    patched.clear()
    patched.steer(same, 0.7)  # 0.63 at most
    assert warned(lambda: run(patched)) == []
    patched.clear()
    patched.steer(same, layers=[0, 1])
    assert warned(lambda: run(patched)) == []
    patched.clear()
    patched.steer(shares_of(plain, {0: one, 2: other}, 0.45))  # in sum 0.45 times the root of 2
    assert warned(lambda: run(patched)) == []
    patched.clear()
    patched.steer(shares_of(plain, {1: one}, 0.9))  # one layer has a limit of its own
    assert warned(lambda: run(patched)) == []
