import pytest
import torch
from tiny import ByteTokenizer, MakeTiny
from torch import nn

import faststeer
from faststeer.extraction import bf16_linear
from faststeer.extraction.bf16_linear import Float32Linear, fastest_linear

ROWS = torch.randn(160, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
CPU = torch.device("cpu")


def random_linear(bias: bool) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(96, 64, bias=bias).bfloat16()


@torch.no_grad()
def test_a_bfloat16_layer_gives_its_exact_result_rounded_once() -> None:
    for bias in (False, True):
        layer = random_linear(bias)
        exact = nn.functional.linear(
            ROWS.double(), layer.weight.double(), layer.bias.double() if bias else None
        )
        with Float32Linear():
            found = layer(ROWS)
        assert found.dtype == torch.bfloat16
        # Half a unit in the last of 8 bits, plus the error of float32 sums at a tie.
        assert ((found.double() - exact).abs() <= exact.abs() * (2**-8 + 2**-16) + 1e-6).all()


@torch.no_grad()
def test_few_rows_and_other_dtypes_are_multiplied_unchanged() -> None:
    layer = random_linear(True)
    with Float32Linear():
        few = layer(ROWS[:100])
    assert torch.equal(few, layer(ROWS[:100]))
    wide = layer.float()
    with Float32Linear():
        found = wide(ROWS.float())
    assert torch.equal(found, wide(ROWS.float()))


def test_a_processor_that_is_fast_at_bfloat16_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def enters(name: str, amx: bool) -> bool:
        bf16_linear._slow_at_bfloat16.cache_clear()
        monkeypatch.setattr(bf16_linear, "cpu_model", lambda: name)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        return isinstance(fastest_linear(CPU), Float32Linear)

    assert enters("Intel(R) Xeon(R) Processor", False)
    assert not enters("Intel(R) Xeon(R) Processor", True)
    assert not enters("AMD EPYC 9655", False)
    assert not isinstance(fastest_linear(torch.device("meta")), Float32Linear)
    bf16_linear._slow_at_bfloat16.cache_clear()


def test_both_kinds_of_products_are_equally_near_to_float32(
    monkeypatch: pytest.MonkeyPatch, make_tiny: MakeTiny, byte_tokenizer: ByteTokenizer
) -> None:
    model = make_tiny()
    texts = [f"{n}: a text long enough for a hundred rows" for n in range(8)]
    exact = faststeer.activations(model, byte_tokenizer, texts, progress=False)
    narrow = model.bfloat16()
    answered = []
    pays_off = bf16_linear._pays_off
    monkeypatch.setattr(
        bf16_linear, "_pays_off", lambda *a: answered.append(pays_off(*a)) or answered[-1]
    )
    errors = []
    for wide in (False, True):
        monkeypatch.setattr(bf16_linear, "_slow_at_bfloat16", lambda wide=wide: wide)
        found = faststeer.activations(narrow, byte_tokenizer, texts, progress=False)
        errors.append(float((found - exact).norm() / exact.norm()))
        assert any(answered) is wide
    assert 0 < errors[1] < 1.2 * errors[0] < 0.02
