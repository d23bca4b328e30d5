from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

import faststeer
from faststeer import SteeringVector
from faststeer.cli.steer_option import SteerOption


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("v.safetensors", SteerOption("v.safetensors", None, None)),
        ("a/b/v:layer=15", SteerOption("a/b/v", [15], None)),
        ("v:layer=3,15,4:coefficient=-2.5", SteerOption("v", [3, 15, 4], -2.5)),
        ("v:coefficient=1e-2:layers=0", SteerOption("v", [0], 0.01)),
        ("v:layer=10-12,15", SteerOption("v", [10, 11, 12, 15], None)),
        ("v:layers=all:coefficient=2", SteerOption("v", None, 2.0)),
        ("v:multiplier=4", SteerOption("v", None, 4.0)),
        ("v:ceiling=3", SteerOption("v", mode="cap", ceiling=3.0)),
        ("v:floor=-2:ceiling=3:mode=cap", SteerOption("v", mode="cap", floor=-2.0, ceiling=3.0)),
        ("v:positions=first(8)", SteerOption("v", positions="first(8)")),
    ],
)
def test_a_steer_option_is_parsed(text: str, option: SteerOption) -> None:
    assert SteerOption.parse(text) == option


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v:strength=2", "unknown setting 'strength'"),
        ("v:2", "unknown setting '2'"),
        ("v:", "unknown setting ''"),
        ("v:layer=", "layer '': expected 'all', or numbers such as 10,12 or 8-15"),
        ("v:layers=last", "layers 'last': expected 'all', or numbers such as 10,12 or 8-15"),
        ("v:layer=12-10", "layer '12-10': expected 'all', or numbers such as 10,12 or 8-15"),
        (
            "v:positions=first(0)",
            "positions is one of all, prompt, generated, from_last_prompt, last, post_instruction "
            "or first(N)",
        ),
        ("v:coefficient=much", "could not convert string to float: 'much'"),
    ],
)
def test_an_invalid_option_is_refused_with_the_expected_form(text: str, reason: str) -> None:
    form = "; expected FILE[:layer=N[,N...]][:coefficient=X]"
    with pytest.raises(ValueError, match=re.escape(f"--steer {text!r}: {reason}{form}")):
        SteerOption.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v:ceiling=-1:floor=1", "the ceiling -1 is under the floor 1"),
        ("v:ceiling=nan", "ceiling is nan; expected a finite number"),
        ("v:mode=clamp:floor=1", "mode 'clamp' has no floor; leave the mode out to cap"),
        ("v:floor=low", "could not convert string to float: 'low'"),
    ],
)
def test_impossible_bounds_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"--steer {text!r}: {reason}")):
        SteerOption.parse(text)


def test_options_steer_at_their_layers_with_their_coefficients(
    tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = tmp_path / "v.safetensors"
    SteeringVector("v", {1: torch.ones(64), 2: torch.ones(64)}).save(file)
    with faststeer.patch(tiny_model) as patched:
        handles = [
            SteerOption.parse(f"{file}{settings}").apply(patched)
            for settings in (":layer=2:coefficient=-3", "", ":layer=1")
        ]
    found = [(handle.name, handle.layers, handle.coefficient) for handle in handles]
    assert found == [("v", [2], -3.0), ("v-2", [1, 2], 1.0), ("v-3", [1], 1.0)]


def test_a_coefficient_that_is_not_a_finite_number_is_refused(
    tiny_model: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = tmp_path / "v.safetensors"
    SteeringVector("v", {1: torch.ones(64)}).save(file)
    with faststeer.patch(tiny_model) as patched:
        for number in ("nan", "inf", "1e400"):
            with pytest.raises(ValueError, match="coefficient of 'v'"):
                SteerOption.parse(f"{file}:coefficient={number}").apply(patched)
        assert not patched.handles
