"""Timed variants compute the right result, and left-out ones are reported."""

from __future__ import annotations

import sys
from dataclasses import replace

import liger
import pytest
import torch
from cases import EPS, Case, Dtype, Entries, Op, random_inputs
from compiled_peers import Compiler, compiled_by_default
from grids import default_grids
from measure import checked_variants
from targets import GPU_TARGETS
from variants import COMPILED, COMPILED_UNSTEERED, FRESH, INTO, LIGER, STOCK, Variant, check

from faststeer import ops
from faststeer.ops import reference

NORM = Case(Op.steer_add_rms_norm, Dtype.bfloat16, 16, 256)
STEERED = replace(NORM, vectors=4, entries=Entries.per_row)


def no_compiler() -> Compiler:
    return Compiler(lambda name, case: False)


def every_compiler() -> Compiler:
    return Compiler(lambda name, case: True, compile_function=lambda function, **options: function)


@pytest.mark.parametrize(
    "case",
    [
        replace(case, dtype=dtype)
        for case in (
            NORM,
            STEERED,
            replace(STEERED, entries=Entries.shared),
            replace(NORM, vectors=1, entries=Entries.per_sequence, vector_dtype=Dtype.float32),
            replace(STEERED, op=Op.steer_add),
            replace(NORM, op=Op.steer_add),
            replace(NORM, op=Op.accumulate_moments),
            replace(NORM, op=Op.accumulate_moments, groups=2),
        )
        for dtype in Dtype
    ],
    ids=str,
)
def test_every_variant_computes_what_the_reference_does(case: Case) -> None:
    compiler = every_compiler()
    with torch.inference_mode():
        names = list(checked_variants(case, random_inputs(case), compiler))
    assert compiler.left_out == []
    assert names[0] == STOCK
    assert FRESH in names
    assert (COMPILED in names) == (case.vectors > 0 or case.op is Op.accumulate_moments)


def wrong(expected: torch.Tensor, row: int, by: float) -> torch.Tensor:
    result = expected.clone()
    result[row] *= by
    return result


@pytest.mark.parametrize("tolerance", [None, 0.03])
@pytest.mark.parametrize("by", [1.05, torch.nan])
def test_one_wrong_row_of_many_is_found(tolerance: float | None, by: float) -> None:
    expected = torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    right = Variant(NORM, lambda _: lambda: expected, lambda _: expected, tolerance)
    check("peer", right, random_inputs(NORM))
    bad = replace(right, bind=lambda _: lambda: wrong(expected, 300, by))
    with pytest.raises(AssertionError, match="peer"):
        check("peer", bad, random_inputs(NORM))


def test_an_output_that_is_not_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "steer_add_rms_norm_out", lambda *arguments: None)
    with torch.inference_mode(), pytest.raises(AssertionError, match=INTO):
        checked_variants(STEERED, random_inputs(STEERED), no_compiler())


def test_a_peer_with_a_wrong_result_is_left_out_and_reported() -> None:
    def unscaled(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor):
        h = residual + x
        return h * weight, h

    compiler = Compiler(lambda name, case: True, compile_function=lambda *_, **options: unscaled)
    with torch.inference_mode():
        names = checked_variants(NORM, random_inputs(NORM), compiler)
    assert COMPILED_UNSTEERED not in names
    assert [each.as_record() for each in compiler.left_out] == [
        {"variant": COMPILED_UNSTEERED, "case": str(NORM), "why": "failed with AssertionError"}
    ]


def test_hooks_add_the_sum_of_the_first_rows_vectors() -> None:
    inputs = random_inputs(STEERED)
    with torch.inference_mode():
        variants = checked_variants(STEERED, inputs, no_compiler())
        _, h = variants["faststeer pre-summed"].bind(inputs)()
    _, expected = reference.steer_add_rms_norm(*inputs[:3], EPS, *inputs.entries)
    assert torch.equal(h[0], expected[0])
    assert not torch.equal(h[1], expected[1])


def test_work_shared_by_cases_is_compiled_once_per_number_of_rows() -> None:
    made: list[object] = []

    def compile_function(function: object, **options: bool):
        made.append(function)
        return lambda *arguments: None

    compiler = Compiler(lambda name, case: True, compile_function=compile_function)
    for case in (STEERED, replace(STEERED, vectors=8)):
        compiler.made(COMPILED_UNSTEERED, case, NORM, torch.add, ())
        compiler.made(COMPILED, case, case, torch.sub, ())
    assert made == [torch.add, torch.sub, torch.sub]
    compiler.begin_rows()
    compiler.made(COMPILED_UNSTEERED, STEERED, NORM, torch.add, ())
    assert made[3:] == [torch.add]


def test_nothing_is_compiled_after_the_time_limit() -> None:
    seconds = iter([0.0, 3.0, 10.0, 13.0])
    compiler = Compiler(
        lambda name, case: True, 5.0, lambda function, **options: function, lambda: next(seconds)
    )
    cases = [replace(NORM, rows=rows) for rows in (1, 2, 4)]
    made = [compiler.made(COMPILED, case, case, lambda: None, ()) for case in cases]
    assert [each is None for each in made] == [False, False, True]
    assert [(each.case.rows, each.why) for each in compiler.left_out] == [
        (4, "no seconds left for compiling")
    ]


def test_a_record_states_how_compiling_failed_without_a_path(capsys: pytest.CaptureFixture) -> None:
    def fails(function: object, **options: bool):
        raise RuntimeError("no compiler at /home/user/bin/cc")

    compiler = Compiler(lambda name, case: True, compile_function=fails)
    assert compiler.made(COMPILED, STEERED, STEERED, torch.add, ()) is None
    assert compiler.left_out[0].why == "failed with RuntimeError"
    assert "/home/user/bin/cc" in capsys.readouterr().err


class OnGpu:
    """Stand-in for a CUDA tensor, as far as Liger's kernel is concerned."""

    device = torch.device("cuda")


def test_a_missing_liger_is_reported_on_a_gpu_and_not_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler, inputs = no_compiler(), random_inputs(NORM)
    monkeypatch.setattr(liger, "installed_version", lambda name: None)
    assert liger.fused_add_norm(NORM, inputs, compiler) is None
    assert compiler.left_out == []
    assert liger.fused_add_norm(NORM, inputs._replace(x=OnGpu()), compiler) is None
    assert [(each.name, each.why) for each in compiler.left_out] == [(LIGER, "not installed")]


def test_liger_is_left_out_where_its_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, inputs = no_compiler(), random_inputs(NORM)
    monkeypatch.setattr(liger, "installed_version", lambda name: "0.8.5")
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    assert liger.fused_add_norm(NORM, inputs._replace(x=OnGpu()), compiler) is None
    assert compiler.left_out[0].why == "failed with ModuleNotFoundError"


def test_on_a_gpu_every_target_over_compiled_code_has_that_code_compiled() -> None:
    cases = [case for grid in default_grids("cuda", full=False) for case in grid.cases()]
    for target in GPU_TARGETS:
        spoken_of = [
            case
            for case in cases
            if case.op is target.op
            and case.dtype is Dtype.bfloat16
            and case.rows in target.rows
            and case.vectors in target.vectors
            and case.entries in target.entries
        ]
        assert {case.rows for case in spoken_of} == set(target.rows)
        assert {case.vectors for case in spoken_of} == set(target.vectors)
        for peer in set(target.over) & {COMPILED, COMPILED_UNSTEERED}:
            assert all(compiled_by_default(peer, case, "cuda") for case in spoken_of)
