from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from command_line import FASTSTEER, environment, run, write_pairs

import faststeer
from faststeer import SteeringVector
from faststeer.data.batches import left_padded
from faststeer.models.inference import greedy_tokens
from faststeer.models.loading import Loaded
from faststeer.ops import cuda_library

PAIRS = [
    ("I love this wonderful day", "I hate this horrible day"),
    ("What a delightful meal", "What a disgusting meal"),
    ("They were kind to us", "They were cruel to us"),
]


def test_info_reports_the_versions_and_capabilities() -> None:
    output = run("info")
    cuda = cuda_library.unavailable_reason() or "loaded; built by nvcc"
    for fact in (faststeer.__version__, torch.__version__, "CPU kernels", "CUDA kernels", cuda):
        assert fact in output


def test_generate_with_two_extracted_vectors_prints_the_texts_of_the_library(
    demo: Loaded, tmp_path: Path
) -> None:
    file, prompts = tmp_path / "warm.safetensors", ["Today I feel", "The food was"]
    output = run(
        *("extract", "--model", "demo", "--output", file, "--layers", "12,15"),
        *("--pairs", write_pairs(tmp_path / "pairs.jsonl", PAIRS)),
    )
    assert f"wrote {file}: SteeringVector('warm', resid_post, hidden size 576" in output
    vector = faststeer.extract(
        demo.model, demo.tokenizer, PAIRS, name="warm", layers=[12, 15], progress=False
    )
    loaded = SteeringVector.load(file)
    assert loaded.layers == [12, 15]
    assert loaded.metadata == vector.metadata
    for layer, direction in vector.directions.items():
        assert (loaded.directions[layer] - direction).norm() < 1e-4 * direction.norm()

    shown = run(
        *("generate", "--model", "demo", "--max-new-tokens", "6"),
        *(part for prompt in prompts for part in ("--prompt", prompt)),
        *("--steer", f"{file}:layer=15:coefficient=2"),
        *("--steer", f"{file}:layer=12:multiplier=-1.5"),
    )
    assert "warm +2 at layer 15, warm-2 -1.5 at layer 12" in shown
    rows = [demo.tokenizer(prompt)["input_ids"] for prompt in prompts]
    batch = left_padded(rows, demo.tokenizer.pad_token_id or 0, torch.device("cpu"))

    def continuations() -> list[str]:
        tokens = greedy_tokens(demo.model, batch, 6)
        return demo.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    with faststeer.patch(demo.model) as patched:
        plain = continuations()
        patched.steer(loaded, 2.0, layers=15)
        patched.steer(loaded, -1.5, layers=12, name="warm-2")
        steered = continuations()
    assert plain != steered
    words = " ".join(shown.split())
    for text in plain + steered:
        assert " ".join(text.split()) in words


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_extraction_leaves_the_old_file_intact_and_no_other(
    tiny_folder: Path, tmp_path: Path, how: signal.Signals
) -> None:
    output = tmp_path / "v.safetensors"
    SteeringVector("old", {0: torch.ones(64)}).save(output)
    old = output.read_bytes()
    pairs = write_pairs(tmp_path / "pairs.jsonl", [("good", "bad")] * 50_000)
    command = [*FASTSTEER, "extract", "--model", str(tiny_folder)]
    with subprocess.Popen(
        [*command, "--pairs", str(pairs), "--output", str(output)],
        env=environment(TTY_COMPATIBLE="1", FORCE_COLOR="1", TERM="xterm"),  # shows the progress
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background jobs, and so their children, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        shown = b""
        while not re.search(rb"[1-9][0-9]*/100000", shown):
            piece = process.stdout.read1()
            assert piece, "it ended too early"
            shown += piece
        process.send_signal(how)
        process.stdout.read()
        complaint = process.stderr.read()
    assert process.returncode != 0
    assert b"Traceback" not in complaint
    assert output.read_bytes() == old
    assert sorted(tmp_path.iterdir()) == [pairs, output]
