"""The kernels in torch: streams, graphs, allocators, devices, compiled and patched models."""

import pytest
import torch
from on_gpu import DTYPES, EPS, ON_GPU, check, new_state, random_entries
from torch import Tensor

from faststeer import ops, patch
from faststeer.diagnostics.bench.variants import vectors_on_all_layers
from faststeer.ops import cuda_library
from faststeer.ops.entry_tables import EntryTable

pytestmark = ON_GPU


def test_the_kernels_of_this_build_are_loaded() -> None:
    assert cuda_library.unavailable_reason() is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_same_inputs_give_the_same_bits(dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, 3000, 4096, device="cuda").to(dtype)
    weight = torch.randn(4096, device="cuda").to(dtype)
    entries = random_entries(3000, 4096, 4, 3, dtype)
    group = torch.randint(-1, 3, (3000,), dtype=torch.int32, device="cuda")
    first = None
    for _ in range(20):
        results = [*ops.steer_add_rms_norm(x, residual, weight, EPS, *entries)]
        state = new_state(3, 4096)
        ops.accumulate_moments(x, group, *state)
        results += state
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(results, first, strict=True))


def test_a_captured_graph_follows_coefficients_and_ids() -> None:
    x, residual = torch.randn(2, 8, 4096, device="cuda").bfloat16()
    weight = torch.randn(4096, device="cuda").bfloat16()
    vectors, index, coefficient = random_entries(8, 4096, 4, 8, torch.float32)
    ops.steer_add_rms_norm(x, residual, weight, EPS, vectors, index, coefficient)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, h = ops.steer_add_rms_norm(x, residual, weight, EPS, vectors, index, coefficient)
    for _ in range(3):
        coefficient.normal_()
        index.copy_(torch.randint(-1, 6, index.shape))
        graph.replay()
        check(out, h, x, residual, weight, vectors, index, coefficient)


def test_a_captured_graph_reads_a_table_by_its_number() -> None:
    x, residual = torch.randn(2, 8, 4096, device="cuda").bfloat16()
    weight = torch.randn(4096, device="cuda").bfloat16()
    vectors, index, coefficient = random_entries(16, 4096, 4, 16, torch.float32)
    modes = torch.zeros(len(vectors), 5, device="cuda")
    modes[:, 0] = 1.0  # additions
    table = EntryTable(vectors, index, coefficient, modes)
    room = x.clone(), residual.clone()
    arguments = (*room, weight, EPS, 0.0, table.number)
    torch.ops.faststeer.steer_add_rms_norm_by_table(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.ops.faststeer.steer_add_rms_norm_by_table(*arguments)
    for _ in range(3):
        coefficient.normal_()
        index.copy_(torch.randint(-1, len(vectors), index.shape))
        room[0].copy_(x)
        room[1].copy_(residual)
        graph.replay()
        check(*room, x, residual, weight, vectors, index[:8], coefficient[:8])


def test_work_goes_to_the_current_stream() -> None:
    residual = torch.randn(4096, 4096, device="cuda")
    weight = torch.ones(4096, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # what is queued behind this has not run yet
        waiting = residual.clone().zero_()
        waiting += residual
        out, h = ops.steer_add_rms_norm(None, waiting, weight, EPS)
        assert not stream.query()
    torch.cuda.current_stream().wait_stream(stream)
    check(out, h, None, residual, weight)


def test_a_call_allocates_its_results_and_nothing_else() -> None:
    residual = torch.randn(1024, 4096, device="cuda")
    weight = torch.ones(4096, device="cuda")
    entries = random_entries(1024, 4096, 4, 4, torch.float32)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out, h = ops.steer_add_rms_norm(None, residual, weight, EPS, *entries)
    assert torch.cuda.max_memory_allocated() - before == out.nbytes + h.nbytes


def test_mixed_devices_are_an_error_that_names_both() -> None:
    residual = torch.randn(4, 64, device="cuda")
    with pytest.raises(ValueError, match=r"weight is on cpu, .* cuda:0"):
        ops.steer_add_rms_norm(None, residual, torch.ones(64), EPS)
    entries = [t.cpu() for t in random_entries(4, 64, 2, 1, torch.float32)]
    with pytest.raises(ValueError, match="is on cpu"):
        ops.steer_add(None, residual, *entries)
    with pytest.raises(ValueError, match="is on"):
        ops.accumulate_moments(residual, None, *(t.cpu() for t in new_state(1, 64)))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_tensors_of_a_device_that_is_not_current_stay_there() -> None:
    with torch.cuda.device(1):
        residual, weight = torch.randn(40, 4096, device="cuda"), torch.ones(4096, device="cuda")
    out, h = ops.steer_add_rms_norm(None, residual, weight, EPS)
    assert out.device == h.device == torch.device("cuda:1")
    check(out, h, None, residual, weight)
    assert torch.cuda.current_device() == 0


def test_torch_knows_enough_of_the_ops_to_compile_them() -> None:
    residual = torch.randn(8, 64, device="cuda", requires_grad=True)
    weight = torch.randn(64, device="cuda", requires_grad=True)
    entries = random_entries(8, 64, 2, 4, torch.float32)
    torch.library.opcheck(
        torch.ops.faststeer.steer_add_rms_norm_autograd.default,
        (None, residual, weight, EPS, *entries),
    )


def test_a_patched_model_gives_stock_logits_and_steers_as_on_the_cpu(make_tiny) -> None:
    model = make_tiny(hidden=64)
    ids = torch.randint(0, 500, (2, 12))
    vectors = [vector * 300.0 for vector in vectors_on_all_layers(model, 3)]

    def logits() -> list[Tensor]:
        with torch.no_grad(), patch(model) as patched:
            device = next(model.parameters()).device
            found = [model(ids.to(device)).logits.cpu()]
            for vector in vectors:
                patched.steer(vector)
            return [*found, model(ids.to(device)).logits.cpu()]

    idle_cpu, steered_cpu = logits()
    model.cuda()
    with torch.no_grad():
        stock = model(ids.cuda()).logits.cpu()
    idle, steered = logits()
    torch.testing.assert_close(idle, stock, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(steered, steered_cpu, rtol=1e-3, atol=1e-3)
    assert float((steered_cpu - idle_cpu).abs().max()) > 0.1
