"""Rows and vectors are in persistent tables: graphs see changes without recompiling."""

import warnings

import pytest
import torch
from by_token import greedy, padded
from compiled_generate import COMPILED, At
from plain_hooks import random_vector
from torch._dynamo.testing import CompileCounter

import faststeer
from faststeer.vectors.sites import Site

# float32 logits of about 4; compiled models may use other kernels than eager ones.
CLOSE = {"rtol": 0, "atol": 1e-5}
IDS, MASK = padded((3, 7, 5, 7))
V, W = random_vector("v", [0, 1]), random_vector("w", [0, 1], seed=1, site="resid_mid")
E = random_vector("e", [0, 1], seed=2, site="resid_pre")
ROWS = [{"v": 1.5, "w": -1.0}, {}, {"w": {0: 2.0, 1: 0.5}}, {"v": {0: -2.0}}]


@pytest.fixture
def model(make_tiny):
    return make_tiny(layers=2)  # compiles in half the time of four


@pytest.fixture
def patched(model):
    torch._dynamo.reset()
    with faststeer.patch(model) as handle, torch.inference_mode():
        yield handle
    torch._dynamo.reset()


def addresses(patched) -> list[int]:
    held = patched.plan.forward.device_tables
    return [tensor.data_ptr() for own in held for tensor in (own.vectors, own.index)]


def test_rows_that_share_a_setting_share_one_sum(model, patched) -> None:
    patched.steer(V)
    patched.steer(W)
    [tables] = patched.plan.forward.device_tables
    with patched.rows([{"v": 1.0, "w": 2.0}, {}, {"w": 2.0, "v": 1.0}, {"v": 1.0}] * 8):
        assert tables.slots == 2
        assert tables.index[:4].tolist() == [[0], [-1], [0], [1]]
        at = tables.position[Site(1, "resid_post")]
        assert torch.equal(tables.vectors[at, 1], V.directions[1])
    patched.steer(E, positions="last")
    with patched.rows([{"v": 1.0, "e": c} for c in (1.0, 1.0, 2.0)]):
        assert tables.slots == 3  # one of v, two of e
        assert tables.index[:3].tolist() == [[0, 1], [0, 1], [0, 2]]


def test_tables_keep_their_memory_and_double_when_they_grow(model, patched) -> None:
    patched.steer(V)
    before = addresses(patched)
    [tables] = patched.plan.forward.device_tables
    slots, lines = tables.vectors.shape[1], tables.index.shape[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not read by any graph yet
        with patched.rows([{"v": float(i)} for i in range(slots)]) as rows:
            for _ in range(lines - slots):
                rows.append({"v": 1.0})
            rows[3] = {}
            patched.steer(W, 2.0)
            with patched.off():
                pass
            assert addresses(patched) == before
            rows.append({})
            assert tables.index.shape[0] == 2 * lines
            rows[0] = {"w": 1.0}
            rows[3] = {"w": 2.0}
            assert tables.vectors.shape[1] == slots
            rows[-1] = {"w": 3.0}
            assert tables.vectors.shape[1] == 2 * slots
            grown = addresses(patched)
        patched.clear()
        assert addresses(patched) == grown


def agree(compiled, model, ids=IDS) -> None:
    torch.testing.assert_close(compiled(ids).logits, model(ids).logits, **CLOSE)


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_every_change_reaches_a_compiled_model_without_recompiling(backend, model, patched) -> None:
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    idle = compiled(IDS).logits
    with torch._dynamo.config.patch(error_on_recompile=True):
        agree(compiled, model)
        handle = patched.steer(V)
        agree(compiled, model)
        handle.coefficient = -2.0
        patched.steer(W, 3.0)
        agree(compiled, model)
        with patched.rows(ROWS) as rows:
            agree(compiled, model)
            rows[1] = {"w": 5.0}
            agree(compiled, model)
            del rows[1]
            del rows[2]
            agree(compiled, model)
            with patched.off():
                assert torch.equal(compiled(IDS).logits, idle)
            rows.append({})
            with pytest.raises(RuntimeError, match="rows of steering do not divide the batch"):
                compiled(IDS)
        agree(compiled, model)
        patched.steer(E, 1.0, name="v")
        agree(compiled, model)
        patched["w"].remove()
        agree(compiled, model)
        patched.clear()
        assert torch.equal(compiled(IDS).logits, idle)


def test_growth_under_a_graph_gives_a_warning_and_reserve_prevents_it(model, patched) -> None:
    patched.steer(V)
    patched.steer(E, positions="prompt")
    counted = CompileCounter()
    ids = torch.cat([IDS] * 5)
    many = [{"v": float(i), "e": -float(i)} for i in range(20)]
    steered = model(ids).logits
    patched.reserve(rows=80, settings=20)
    assert torch.equal(model(ids).logits, steered)
    compiled = torch.compile(model, fullgraph=True, backend=counted)
    agree(compiled, model, ids)
    before = addresses(patched)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with patched.rows(many) as rows:
            agree(compiled, model, ids)
            for _ in range(60):
                rows.append({"v": 1.0})
        assert addresses(patched) == before
        assert counted.frame_count == 1
        # A change that needs more room than can be allocated does not take place.
        shared = model(ids).logits
        with pytest.raises(faststeer.FaststeerWarning), patched.rows([{}] * 200):
            pass
        with patched.rows([{"v": 2.0}]) as rows:
            with pytest.raises(faststeer.FaststeerWarning):
                patched.steer(W, positions="generated")
            assert [handle.name for handle in patched.handles] == ["v", "e"]
            assert list(rows) == [{"v": 2.0}]
        assert torch.equal(model(ids).logits, shared)
        agree(compiled, model, ids)
    with pytest.warns(
        faststeer.FaststeerWarning, match="200 rows with 1 different sums in 2 groups"
    ):
        patched.rows([{"v": 1.0}] * 200).__enter__()
    with patched.rows([{"v": 2.0}, {"v": 3.0}]):
        agree(compiled, model, ids)
    assert counted.frame_count == 2


POSITIONS = {
    "all": "all",
    "generated": "generated",
    "range": range(2, 9),
    "function": lambda positions, lengths: positions % 2 == 0,
    "marks": MASK.bool(),
    "after": faststeer.after([int(IDS[1, 4])]),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_generate_with_a_static_cache_compiles_once_and_sees_changes_at_the_next_step(
    name, model, patched
) -> None:
    patched.steer(V, 2.0, positions=POSITIONS[name])
    patched.steer(W)

    def both(ids, mask):
        for how in ({}, COMPILED):
            with patched.rows(ROWS) as rows:

                def late(rows=rows) -> None:
                    patched.steer(E, name="late")
                    rows[0] = {"late": 3.0}

                steps = At(
                    t9=lambda rows=rows: rows.__setitem__(1, {"v": 4.0}),
                    t10=lambda rows=rows: rows.__setitem__(3, {}),
                    t11=late,
                )
                new = {"max_new_tokens": 14 - ids.shape[1]}
                yield greedy(model, ids, mask, logits_processor=[steps], **new, **how)
            patched["late"].remove()

    def compare(ids, mask):
        eager, compiled = both(ids, mask)
        assert torch.equal(compiled[0], eager[0])
        torch.testing.assert_close(compiled[1], eager[1], **CLOSE)

    torch._dynamo.utils.counters.clear()
    compare(IDS, MASK)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compare(IDS, MASK)
        compare(IDS[:, 2:], MASK[:, 2:])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
