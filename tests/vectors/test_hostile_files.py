"""Damaged and hostile files of every format: a clear error, never a crash, a hang or a bomb."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from command_line import environment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import SUPPORT

from faststeer import SteeringVector

DAMAGED_FILES = SUPPORT / "damaged_files.py"

EXTREMES = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
COUNTS = st.one_of(st.integers(0, 12), st.sampled_from(EXTREMES))


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_ten_thousand_damaged_files_give_a_clear_error_or_a_finite_vector(tmp_path: Path) -> None:
    command = [sys.executable, str(DAMAGED_FILES), str(tmp_path), "10000", "0"]
    done = subprocess.run(
        command,
        env=environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    slowest = counts.pop("slowest")
    assert slowest < 20  # seconds on busy cores; 0.015 on idle ones, for files of a kilobyte
    assert sum(counts.values()) == 10_000
    for name in ("v.gguf", "v.pt", "v.safetensors", "vec_layer_3.pt"):
        assert counts[f"{name} refused without a name"] == 0
        assert counts[f"{name} refused"] > 1000
        assert counts[f"{name} read"] > 0  # damage to a number, for instance


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("controlvector")


@given(
    tensors=COUNTS,
    keys=COUNTS,
    key=st.binary(max_size=20),
    kind=st.integers(0, 13),
    inner=st.integers(0, 13),
    length=COUNTS,
    dimensions=COUNTS,
    size=COUNTS,
    storage=st.integers(0, 40),
    offset=COUNTS,
    rest=st.binary(max_size=100),
)
@settings(
    max_examples=300,
    deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
def test_no_number_in_a_gguf_header_causes_a_crash_or_a_hang(
    tmp_path: Path,
    tensors: int,
    keys: int,
    key: bytes,
    kind: int,
    inner: int,
    length: int,
    dimensions: int,
    size: int,
    storage: int,
    offset: int,
    rest: bytes,
) -> None:
    file = tmp_path / "v.gguf"
    content = b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + ARCHITECTURE
    content += struct.pack("<Q", len(key)) + key + struct.pack("<I", kind)
    content += struct.pack("<IQ", inner, length) * (kind == 9)
    content += text("direction.1") + struct.pack("<IQIQ", dimensions % 2**32, size, storage, offset)
    file.write_bytes(content + rest)
    try:
        vector = SteeringVector.load(file)
    except ValueError as error:
        message = str(error)
    else:
        message = f"{file}: {vector}"
        assert vector.directions[1].numel() * 4 <= len(rest)
    assert message.startswith(f"{file}: ")


def test_a_gguf_array_that_the_package_cannot_handle_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "v.gguf"
    array = text("tags") + struct.pack("<IIQ", 9, 0, 50_000_000)
    content = b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + ARCHITECTURE + array + bytes(50_000_000)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"key 'tags' has 50,000,000 elements"):
        SteeringVector.load(file)


def test_overlapping_gguf_tensors_cannot_inflate_a_small_file(tmp_path: Path) -> None:
    file = tmp_path / "v.gguf"
    content = b"GGUF" + struct.pack("<IQQ", 3, 9_000, 1) + ARCHITECTURE
    for layer in range(9_000):
        content += text(f"direction.{layer}") + struct.pack("<IQIQ", 1, 1 << 18, 0, 0)
    file.write_bytes(content + bytes((1 << 20) + 64))
    with pytest.raises(ValueError, match="its tensors are larger than the file"):
        SteeringVector.load(file)


def test_a_whole_model_s_gguf_is_refused_before_its_tokenizer_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_array("tokenizer.ggml.scores", [0.0] * 50_000)
    writer.add_tensor("output.weight", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"general\.architecture is 'llama'"):
        SteeringVector.load(tmp_path / "model.gguf")


def write_pt(
    file: Path, change: tuple[bytes, bytes], compression: int = zipfile.ZIP_STORED
) -> Path:
    """Write a tensor of 8 numbers with a modified pickle."""
    out = io.BytesIO()
    torch.save(torch.arange(8.0), out)
    old, new = change
    with zipfile.ZipFile(out) as source, zipfile.ZipFile(file, "w", compression) as target:
        for entry in source.infolist():
            inner = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert old in inner
                inner = inner.replace(old, new)
            target.writestr(entry.filename, inner)
    return file


HUGE = b"J" + (2**31 - 1).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"cpuq\x04K\x08", b"cpuq\x04" + HUGE), None),
        ((b"K\x08\x85q\x06", HUGE + b"\x85q\x06"), "not a readable .pt file"),
        ((b"K\x08\x85q\x06K\x01", HUGE + b"\x85q\x06K\x00"), "its tensor is larger than the file"),
        ((b"K\x00K\x08\x85q\x06", HUGE + b"K\x08\x85q\x06"), "not a readable .pt file"),
        ((b"ctorch\nFloatStorage\n", b"cos\nsystem\n"), "needs os system"),
        ((b"ctorch\nFloatStorage\n", b"cbuiltins\nbytearray\n"), "needs builtins bytearray"),
        ((b"X\x01\x00\x00\x000q\x03", b"X\x05\x00\x00\x00../..q\x03"), "not a readable .pt file"),
        ((b"\x80\x02", b"\x80\x04"), "its pickle has protocol 4"),
    ],
    ids=["storage", "size", "stride 0", "offset", "code", "allocation", "path", "protocol"],
)
def test_a_pickle_that_misdescribes_its_tensor_reads_nothing_outside_the_file(
    tmp_path: Path, change: tuple[bytes, bytes], message: str | None
) -> None:
    file = write_pt(tmp_path / "vec_layer_1.pt", change)
    if message is None:  # the declared storage is larger than the real one, but contains the tensor
        assert SteeringVector.load(file).directions[1].tolist() == list(range(8))
    else:
        with pytest.raises(ValueError, match=rf"vec_layer_1\.pt: .*{message}"):
            SteeringVector.load(file)


def test_a_compressed_pt_file_is_refused_unopened(tmp_path: Path) -> None:
    bomb = (b"storage", b"storage" + b" " * (1 << 20))
    file = write_pt(tmp_path / "vec_layer_1.pt", bomb, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 1 << 14
    with pytest.raises(ValueError, match=r"compressed entries, which torch\.save does not write"):
        SteeringVector.load(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1.0, 2.0], r"holds a list; expected a tensor \[H\] \(CAA\), a tensor"),
        (torch.ones(2, 2), "holds 2 rows, and its name does not state what they are"),
        (torch.ones(2, 2, 2), "3 dimensions; expected floating-point"),
        (torch.tensor([1, 2]), "needs torch LongStorage"),
        (torch.tensor([1.0, float("inf")]), "1 of 2 values are NaN or infinite"),
        (torch.nn.Linear(2, 2).state_dict(), "hookpoint 'weight'"),
        (Path("x"), "needs pathlib"),
    ],
)
def test_a_pt_file_of_another_type_is_refused_with_that_type(
    tmp_path: Path, content: Any, message: str
) -> None:
    file = tmp_path / "vec_layer_1.pt"
    torch.save(content, file)
    with pytest.raises(ValueError, match=rf"vec_layer_1\.pt: .*{message}"):
        SteeringVector.load(file)


@given(
    header=st.recursive(
        st.one_of(st.none(), st.integers(), st.text(max_size=8), st.sampled_from(EXTREMES)),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dtype", "shape", "data_offsets", "direction.1", "__metadata__"]),
                inner,
            )
        ),
        max_leaves=12,
    ),
    length=st.one_of(st.none(), st.sampled_from(EXTREMES)),
    rest=st.binary(max_size=64),
)
@settings(
    max_examples=200,
    deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
def test_no_safetensors_header_causes_a_crash_or_a_hang(
    tmp_path: Path, header: Any, length: int | None, rest: bytes
) -> None:
    file = tmp_path / "v.safetensors"
    content = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(content) if length is None else length) + content + rest)
    with pytest.raises(ValueError, match=r"v\.safetensors: "):
        SteeringVector.load(file)
