"""Every kernel, compiled for every architecture: what the compiler made of it."""

import re
import subprocess
from collections import defaultdict
from collections.abc import Callable

import pytest
from built_wheel import BuiltOnce, Installed
from compiling_kernels import build_launching
from cuda_libraries import cuobjdump, with_cuda
from machine_code import Instruction, Key, arguments, instructions, needs, readable

from cuda_toolkit import ARCHITECTURES

Code = dict[Key, list[Instruction]]
MACHINES = {f"sm_{number}" for number in ARCHITECTURES}


@pytest.fixture(scope="module")
def libraries(built_once: BuiltOnce) -> Installed:
    return with_cuda(built_once)


@pytest.fixture(scope="module")
def code(libraries: Installed) -> Code:
    """Instructions by architecture and readable name."""
    found = instructions(cuobjdump("-sass", libraries.cuda))
    names = readable({name for _, name in found})
    return {(architecture, names[name]): code for (architecture, name), code in found.items()}


def packed(code: Code, kernel: str) -> Code:
    """Those that move whole packs."""
    wanted = {
        key: listed
        for key, listed in code.items()
        if key[1].startswith(f"{kernel}<") and arguments(key[1])[-1] != "false"
    }
    assert {architecture for architecture, _ in wanted} == MACHINES
    return wanted


def moved(code: list[Instruction], operation: str, kind: str = "") -> set[int]:
    """The bits a lane that accesses of a kind move: streamed (EF), read-only (CONSTANT), other."""
    return {
        one.bits
        for one in code
        if one.operation == operation
        and next((k for k in ("EF", "CONSTANT") if k in one.modifiers), "") == kind
    }


def test_no_kernel_spills_or_takes_more_than_64_registers(
    libraries: Installed, figure: Callable[[str], None]
) -> None:
    found = needs(libraries.compiler_output)
    names = readable({name for _, name in found})
    kernels = {a: {name for b, name in found if b == a} for a in MACHINES}
    assert {a for a, _ in found} == MACHINES
    assert len(set(map(frozenset, kernels.values()))) == 1
    assert len(names) > 50
    for (architecture, name), need in found.items():
        where = (architecture, names[name], need)
        assert need.spilled_bytes == 0, where
        assert need.stack_bytes == 0, where
        assert need.registers <= 64, where
    for kernel in (
        *("steer_norm_packed", "steer_norm_general", "steer_norm_modes"),
        *("moments_of_splits", "merge_moments"),
        *("backward_packed", "backward_general", "scatter_segments", "merge_sums"),
    ):
        registers = [need.registers for (_, name), need in found.items() if kernel in name]
        figure(f"registers of {kernel}: {min(registers)} to {max(registers)}")


@pytest.fixture(scope="module")
def planned_registers(built_once: BuiltOnce) -> list[tuple[int, int]]:
    """Return the registers per thread that the launch plan expects, with one pack and with two."""
    program = built_once("launching", build_launching) / "launching"
    lines = subprocess.run([program, "registers"], capture_output=True, text=True, check=True)
    return [(int(one), int(two)) for one, two in map(str.split, lines.stdout.splitlines())]


def test_kernels_take_the_registers_that_the_launch_plan_counts_on(
    libraries: Installed, planned_registers: list[tuple[int, int]]
) -> None:
    found = needs(libraries.compiler_output)
    names = readable({name for _, name in found})
    most: dict[tuple[int, int], int] = defaultdict(int)
    for (architecture, name), need in found.items():
        kernel = re.match(r"steer_norm_(packed|modes)<", names[name])
        if kernel is None or architecture == "sm_75":  # which has room for 1,024 threads anyway
            continue
        *_, packs, steering = [*arguments(names[name]), "4"][
            :5
        ]  # modes have no number of their own
        place = int(steering), int(packs) - 1
        most[place] = max(most[place], need.registers)
    assert len(most) == 2 * len(planned_registers) == 10
    for (steering, packs), registers in most.items():
        given_out = -(-registers // 8) * 8
        assert planned_registers[steering][packs] == given_out, (steering, packs + 1, registers)


def test_no_kernel_has_local_memory_or_atomics(code: Code) -> None:
    for key, listed in code.items():
        operations = {one.operation for one in listed}
        assert operations.isdisjoint({"LDL", "STL"}), key
        assert not any(name.startswith(("ATOM", "RED")) for name in operations), key


@pytest.mark.parametrize("kernel", ["steer_norm_packed", "steer_norm_modes"])
def test_packed_steering_moves_16_bytes_at_a_time(code: Code, kernel: str) -> None:
    for key, listed in packed(code, kernel).items():
        residual, x, *_, last = arguments(key[1])
        half_x = residual == "float" and x != "float"  # eight bytes become sixteen
        assert moved(listed, "LDG", "EF") == ({64, 128} if half_x else {128}), key
        # Entries of the index are 32 bits, one in a lane.
        steered = kernel == "steer_norm_modes" or last != "0"
        assert moved(listed, "LDG", "CONSTANT") == ({32, 128} if steered else {128}), key
        assert moved(listed, "LDG") == set(), key
        # Beside the packs a row's scale is stored, for a backward pass.
        assert moved(listed, "STG") == {32, 128}, key


@pytest.mark.parametrize("kernel", ["steer_norm_packed", "steer_norm_modes"])
def test_packed_steering_moves_every_activation_once(code: Code, kernel: str) -> None:
    for key, listed in packed(code, kernel).items():
        packs = int(arguments(key[1])[3])
        streamed = [one for one in listed if "EF" in one.modifiers]
        stored = [one for one in listed if one.operation == "STG" and one.bits == 128]
        assert len(streamed) == 2 * packs, key  # the residual and x
        assert len(stored) == 2 * packs, key  # the residual and out


def ordered(code: Code, kernel: str) -> Code:
    """Return the kernels for Hopper and later; before, nvcc sinks the weight of a few of them."""
    wanted = {"sm_90", "sm_100"}
    return {key: listed for key, listed in packed(code, kernel).items() if key[0] in wanted}


WAITS = ("SHFL", "STG", "FADD", "FMUL", "FFMA", "HADD2", "VOTE", "VOTEU")


def first_loads(listed: list[Instruction]) -> dict[str, int]:
    """Loads by kind that are issued before any instruction waits for one."""
    first = next(i for i, one in enumerate(listed) if one.operation in WAITS)
    loads = [one for one in listed[:first] if one.operation == "LDG"]
    read_only = [one.bits for one in loads if "CONSTANT" in one.modifiers]
    return {
        "activations": sum("EF" in one.modifiers for one in loads),
        "weight": read_only.count(128),  # and vectors that no id chooses
    }


def is_entry(one: Instruction) -> bool:
    """Whether it loads an id, a coefficient or a number of a mode."""
    return one.operation == "LDG" and "CONSTANT" in one.modifiers and one.bits == 32


def waits_before_vectors(listed: list[Instruction]) -> int:
    """Count how often the first vectors that ids choose are waited for, and what is before them.

    Instructions are issued in order: whatever names a register that a load has yet to fill waits,
    and every load requested before it has arrived by then.
    """
    waits, unfilled = 0, set[int]()
    entries = vectors = False
    for one in listed:
        if one.registers & unfilled:
            waits += 1
            unfilled.clear()
            if vectors:
                return waits
        if one.operation == "LDG":
            unfilled |= one.filled
            entries = entries or is_entry(one)
            vectors = vectors or (entries and one.bits == 128)
    raise AssertionError("no vectors")


def an_entry_is_one_wait(listed: list[Instruction]) -> bool:
    """Whether nothing looks at an id before the coefficient beside it is requested as well."""
    loads = [i for i, one in enumerate(listed) if is_entry(one)]
    between = listed[loads[0] + 1 : loads[1]]
    return not any(one.registers & listed[loads[0]].filled for one in between)


@pytest.mark.parametrize("steering", ["none", "single", "direct", "kept"])
def test_a_row_is_loaded_in_one_phase_before_anything_waits(code: Code, steering: str) -> None:
    number = str(("none", "single", "direct", "kept").index(steering))
    for key, listed in ordered(code, "steer_norm_packed").items():
        residual, _, vectors, packs, own = arguments(key[1])
        if own != number:
            continue
        # A pack of vectors is 16 bytes of a half, or as many elements of float32.
        wide = 2 if vectors == "float" and residual != "float" else 1
        weight = int(packs) * (1 + wide * (steering == "single"))
        assert first_loads(listed) == {"activations": 2 * int(packs), "weight": weight}, key
        if steering == "single":
            assert an_entry_is_one_wait(listed), key
        elif steering != "none":  # for the id, and for its vector and coefficient
            assert waits_before_vectors(listed) == 2, key


def test_as_many_vectors_are_in_flight_as_registers_hold(code: Code) -> None:
    """128 bytes of each row with one pack per thread, 64 with two, before the first is used."""
    for key, listed in ordered(code, "steer_norm_packed").items():
        *_, packs, steering = arguments(key[1])
        if steering != "2":  # direct
            continue
        entry = next(i for i, one in enumerate(listed) if one.operation == "SHFL")
        used = next(i for i, one in enumerate(listed) if one.operation in ("FMUL", "FADD"))
        vectors = [one.bits for one in listed[entry:used] if one.operation == "LDG"]
        assert vectors == 8 // int(packs) * [128], key


def test_a_row_with_modes_is_loaded_in_one_phase_before_anything_waits(code: Code) -> None:
    for key, listed in ordered(code, "steer_norm_modes").items():
        packs = int(arguments(key[1])[3])
        # The weight of two packs is loaded after the projections, for want of registers.
        weight = 1 if packs == 1 else 0
        assert first_loads(listed) == {"activations": 2 * packs, "weight": weight}, key
        # For the id, the mode and the vector; twice between, for entries after the 32nd.
        assert waits_before_vectors(listed) == 5, key


def test_a_backward_pass_moves_every_activation_once_in_packs(code: Code) -> None:
    for key, listed in packed(code, "backward_packed").items():
        own, x, _ = arguments(key[1])
        streamed = [one for one in listed if "EF" in one.modifiers]
        assert [one.bits for one in streamed] == [128] * 3, key  # two gradients and h
        half_x = own == "float" and x != "float"
        assert moved(listed, "STG") == {32, 128} | ({64} if half_x else set()), key


def test_a_row_of_a_backward_pass_is_loaded_before_anything_waits(code: Code) -> None:
    for key, listed in ordered(code, "backward_packed").items():
        streamed = [i for i, one in enumerate(listed) if "EF" in one.modifiers]
        between = {one.operation for one in listed[streamed[0] : streamed[-1]]}
        assert between.isdisjoint({*WAITS, "BAR", "STS"} - {"VOTEU"}), key


def test_packed_moments_read_16_bytes_at_a_time(code: Code) -> None:
    for key, listed in packed(code, "moments_of_splits").items():
        assert moved(listed, "LDG", "EF") == {128}, key


def loads_before_use(listed: list[Instruction]) -> list[int]:
    """Return the bits of the loads that are issued before any double is computed with."""
    uses = ("DADD", "DMUL", "DFMA", "DSETP", "MUFU")
    first = next(i for i, one in enumerate(listed) if one.operation in uses)
    return [one.bits for one in listed[:first] if one.operation == "LDG"]


def test_the_merge_of_moments_requests_all_it_needs_before_it_uses_any(code: Code) -> None:
    merges = {key[0]: listed for key, listed in code.items() if key[1] == "merge_moments"}
    assert set(merges) == MACHINES
    for architecture, listed in merges.items():
        # Count, mean and moment of the state and of each of four splits.
        assert loads_before_use(listed) == 15 * [64], architecture


def test_ptx_of_the_newest_architecture_is_there_for_later_gpus(libraries: Installed) -> None:
    newest = max(ARCHITECTURES)
    files = cuobjdump("-lptx", libraries.cuda).splitlines()
    assert len(files) == 4, files  # steer_norm.cu, steer_norm_modes.cu, moments.cu, backward.cu
    assert all(file.endswith(f".sm_{newest}.ptx") for file in files)
