"""The library of CUDA kernels: how it is linked, loaded, and what it makes of its arguments."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from built_wheel import ROOT, BuiltOnce, Installed
from cuda_libraries import with_cuda

import faststeer.ops  # noqa: F401 - importing it registers the ops

WITHOUT_CUDA = pytest.mark.skipif(torch.version.cuda is not None, reason="torch has CUDA")


def output_of(*command: object) -> str:
    return subprocess.run(
        tuple(map(str, command)), capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def libraries(built_once: BuiltOnce) -> Installed:
    return with_cuda(built_once)


def test_it_needs_no_cuda_library_but_a_symbol_of_torch(libraries: Installed) -> None:
    needed = re.findall(r"NEEDED.*\[(.*)\]", output_of("readelf", "-d", libraries.cuda))
    assert "libtorch.so" in needed  # which leads to libtorch_cuda.so where there is one
    assert not [name for name in needed if "cuda" in name], needed
    undefined = output_of("nm", "-D", "--undefined-only", libraries.cuda).split()
    assert "aoti_torch_get_current_cuda_stream" in undefined
    offered = output_of("nm", "-D", "--defined-only", libraries.cuda).split()
    assert not [name for name in undefined + offered if re.match(r"_*cuda[A-Z]", name)]


@WITHOUT_CUDA
def test_it_is_not_loaded_where_torch_has_no_cuda(libraries: Installed) -> None:
    fact = libraries.python(
        "from faststeer.cli import info; print(info.runtime_facts()['CUDA kernels'])"
    )
    assert fact.startswith(f"not loaded: torch {torch.__version__} has no CUDA; built by nvcc ")
    assert "for sm_75, sm_80, sm_90, sm_100 and PTX compute_100; on a GPU" in fact


@WITHOUT_CUDA
def test_a_library_that_cannot_be_loaded_is_told_of_once_and_the_cpu_goes_on(
    libraries: Installed,
) -> None:
    program = """
import warnings, torch
torch.version.cuda = "13.0"  # so it is loaded, and torch's stream getter not found
from faststeer import FaststeerWarning, ops
from faststeer.cli import info
from faststeer.ops import cuda_library, registration
assert "undefined symbol: aoti_torch_get_current_cuda_stream" in cuda_library.unavailable_reason()
assert info.runtime_facts()["CUDA kernels"].startswith(cuda_library.unavailable_reason())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    out, h = ops.steer_add_rms_norm(None, torch.ones(2, 8), torch.ones(8), 1e-5)
    assert torch.equal(h, torch.ones(2, 8)) and not caught
    for _ in range(2):
        registration._warn_of_reference(torch.device("cuda"))
(warning,) = caught
assert warning.category is FaststeerWarning
assert f"CUDA kernels are {cuda_library.unavailable_reason()}" in str(warning.message)
"""
    libraries.python(program)


@pytest.fixture(scope="module")
def on_cpu(libraries: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA registration over launchers that run the CPU's kernels."""
    from torch.utils import cpp_extension

    library = tmp_path_factory.mktemp("on_cpu") / "on_cpu.so"
    shared = (
        *("bindings_stable_tensors", "bindings_backward_tensors", "bindings_entry_tables"),
        "bindings_register_cuda",
        *("cuda_launch_plan", "cuda_backward_plan"),
    )
    objects = (f"{name}.cpp.o" for name in shared)
    kept = [libraries.objects / name for name in objects]
    kept += [*libraries.objects.glob("cpu_*.o"), *libraries.objects.glob("common_*.o")]
    output_of(
        *(os.environ.get("CXX", "c++"), "-std=c++20", "-shared", "-fPIC", "-DUSE_CUDA"),
        *(f"-I{ROOT / 'csrc'}", *(f"-isystem{path}" for path in cpp_extension.include_paths())),
        *(Path(__file__).with_name("launched_on_cpu.cpp"), *kept, "-o", library),
        *(*(f"-L{path}" for path in cpp_extension.library_paths()), "-lc10", "-ltorch_cpu"),
    )
    return library


def test_every_op_is_registered_and_hands_its_arguments_on(
    libraries: Installed, on_cpu: Path
) -> None:
    program = """
import sys, torch
from faststeer import ops
torch.ops.load_library(sys.argv[1])
CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
x, residual, weight = torch.randn(6, 40), torch.randn(6, 40), torch.rand(40)
entries = (
    torch.randn(5, 40),
    torch.tensor([[0, -1], [3, 1], [2, 2]], dtype=torch.int32),
    torch.randn(3, 2),
    torch.tensor([[1.0, 0, 0, 0, 0], [0, 0.7, 0, -1, 1], [1, 0, 1, 0, 0]]).repeat(2, 1)[:5],
)
both = torch.empty(2, 6, 40), torch.empty(2, 6, 40)
calls = {
    "steer_add_rms_norm": (x, residual, weight, 0.1, *entries, 1.0),
    "steer_add_rms_norm_autograd": (x, residual, weight, 0.1, *entries, 1.0),
    "steer_add": (x, residual, *entries),
    "steer_add_autograd": (x, residual, *entries),
}
for name, arguments in calls.items():
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"faststeer::{name}", "CUDA")
    op = getattr(torch.ops.faststeer, name).default
    torch.testing.assert_close(op.redispatch(CUDA, *arguments), op(*arguments), rtol=0, atol=0)
    try:
        op.redispatch(CUDA, torch.randn(6, 39), *arguments[1:])
    except ValueError as error:
        assert "x has shape [6, 39]" in str(error)
    else:
        raise AssertionError(f"{name} took an x that does not fit")
by_table, found = torch.ops.faststeer.steer_add_rms_norm_by_table.default, []
table = (entries[0], entries[1].repeat(3, 1), entries[2].repeat(3, 1), entries[3])
for run in (lambda op, *a: op(*a), lambda op, *a: op.redispatch(CUDA, *a)):
    run(torch.ops.faststeer.set_entry_table.default, 2, *table)
    found.append((x.clone(), residual.clone()))
    run(by_table, *found[-1], weight, 0.1, 1.0, 2)
    run(torch.ops.faststeer.drop_entry_table.default, table[1], 2)
    try:
        run(by_table, x.clone(), residual.clone(), weight, 0.1, 1.0, 2)
    except ValueError as error:
        assert "there is no table 2" in str(error)
    else:
        raise AssertionError("a table that was dropped was read")
torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
assert not torch.equal(found[0][1], x + residual)
op = torch.ops.faststeer.steer_add_rms_norm.out
for given, run in zip(both, (op, lambda *a: op.redispatch(CUDA, *a))):
    run(x, residual.T.contiguous().T, weight, 0.1, *entries, 1.0, given[0], given[1])
assert torch.equal(both[0], both[1])
vectors, normed = torch.cat([entries[0], x]), torch.cat([weight[None], x])
refused = {
    "weight is None": {"weight": None},
    "out is None": {"out": None},
    "residual_out overlaps vectors": {"vectors": vectors[:5], "residual_out": vectors[:6]},
    "out overlaps weight": {"weight": normed[0], "out": normed[:6]},
}
names = ("x", "residual", "weight", "eps", "vectors", "index", "coefficient", "modes", "offset")
good = dict(zip(names, (x, residual, weight, 0.1, *entries, 1.0)))
good |= {"out": torch.empty(6, 40), "residual_out": torch.empty(6, 40)}
for message, change in refused.items():
    try:
        op.redispatch(CUDA, *(good | change).values())
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(f"took a call where {message}")
"""
    libraries.python(program, on_cpu)


def test_backward_ops_hand_their_arguments_on(libraries: Installed, on_cpu: Path) -> None:
    program = """
import sys, torch
from faststeer import ops
torch.ops.load_library(sys.argv[1])
CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
grads, h, weight = torch.randn(2, 6, 40), torch.randn(6, 40), torch.rand(40)
entries = (
    torch.randn(5, 40),
    torch.tensor([[0, -1], [3, 1], [2, 2]], dtype=torch.int32),
    torch.randn(3, 2),
)
norm = (*grads, h, weight, torch.rand(6), 1.0, *entries, torch.bfloat16)
calls = {
    "steer_add_rms_norm_backward": (*norm, True, True, True, True),
    "steer_add_backward": (grads[0], *entries, True, True),
}
for name, arguments in calls.items():
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"faststeer::{name}", "CUDA")
    op = getattr(torch.ops.faststeer, name).default
    found, expected = op.redispatch(CUDA, *arguments), op(*arguments)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert all(one.numel() > 0 for one in found)
    try:
        op.redispatch(CUDA, torch.randn(6, 39), *arguments[1:])
    except ValueError as error:
        assert "has shape" in str(error)
    else:
        raise AssertionError(f"{name} took a gradient that does not fit")
"""
    libraries.python(program, on_cpu)


def test_moments_hand_their_arguments_on(libraries: Installed, on_cpu: Path) -> None:
    program = """
import sys, torch
from faststeer import ops
torch.ops.load_library(sys.argv[1])
op = torch.ops.faststeer.accumulate_moments.default
CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
for x in torch.arange(42.0).view(6, 7), torch.arange(42.0).view(7, 6).T:
    count, mean, m2 = torch.ones(3, dtype=torch.int64), *torch.zeros(2, 3, 7).double()
    group = torch.tensor([2, 0, -1, 2, 2, 1], dtype=torch.int32)
    op.redispatch(CUDA, x, group, count, mean, m2)
    assert count.tolist() == [2, 2, 4]
    for g in range(3):
        rows = x[group == g].double()
        assert torch.equal(mean[g], rows.sum(0)) and torch.equal(m2[g], rows.square().sum(0))
    op.redispatch(CUDA, x, None, count[:1], mean[:1].zero_(), m2[:1])
    assert count[0] == 8 and torch.equal(mean[0], x.double().sum(0))
    try:
        op.redispatch(CUDA, x, group[:5], count, mean, m2)
    except ValueError as error:
        assert "group has shape [5]" in str(error)
    else:
        raise AssertionError("took a group of the wrong length")
op.redispatch(CUDA, torch.ones(0, 7), None, count[:1], mean[:1], m2[:1])
assert count[0] == 8
"""
    libraries.python(program, on_cpu)


def test_asking_for_it_without_nvcc_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "toolkit").mkdir()
    home = str(tmp_path / "toolkit")
    build = ("build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path))
    result = subprocess.run(
        (sys.executable, "setup.py", "-q", *build),
        cwd=ROOT,
        env={**os.environ, "FASTSTEER_CUDA": "1", "CUDA_HOME": home},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert f"but CUDA_HOME was {home}, where there is no bin/nvcc. Install" in result.stdout
    assert "Traceback" not in result.stdout
