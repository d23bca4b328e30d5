"""Streams that are not [B, T, H]: each row and token is steered correctly, or refused."""

import pytest
import torch

from faststeer import ops
from faststeer.models.stream_layout import StreamLayout

BATCH, TOKENS, HIDDEN = 2, 3, 8
V = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(0))
# Token 1 of sequence 0 gets the first vector, token 2 of sequence 1 twice the second.
INDEX = torch.tensor([[-1], [0], [-1], [-1], [-1], [1]], dtype=torch.int32)
COEFFICIENT = torch.tensor([[1.0], [1.0], [1.0], [1.0], [1.0], [2.0]])
# [B, T, H] in each layout: batch and time moved to its axes.
SHAPES = {
    "XLNetModel": ((TOKENS, BATCH, HIDDEN), lambda h: h.transpose(0, 1)),
    "Gemma3nTextModel": ((4, BATCH, TOKENS, HIDDEN), lambda h: h),
    "DeepseekV4Model": ((BATCH, TOKENS, 4, HIDDEN), lambda h: h.movedim(2, 0)),
    "LlamaModel": ((BATCH, TOKENS, HIDDEN), lambda h: h),
}


@pytest.mark.parametrize("decoder", SHAPES)
def test_each_token_of_each_sequence_gets_its_own_entries(decoder) -> None:
    shape, batch_first = SHAPES[decoder]
    hidden = torch.randn(shape)
    layout = StreamLayout.find(shape, BATCH, TOKENS, decoder)
    found = batch_first(layout.steered(hidden, (V, INDEX, COEFFICIENT, None)))
    addition = torch.zeros(BATCH, TOKENS, HIDDEN)
    addition[0, 1], addition[1, 2] = V[0], 2 * V[1]
    assert not torch.equal(addition.transpose(0, 1).reshape(addition.shape), addition)
    assert torch.equal(found, batch_first(hidden) + addition)


@pytest.mark.parametrize("decoder", SHAPES)
def test_one_setting_for_all_and_one_per_sequence_are_right_too(decoder) -> None:
    shape, batch_first = SHAPES[decoder]
    hidden = torch.randn(shape)
    layout = StreamLayout.find(shape, BATCH, TOKENS, decoder)
    for rows in (1, BATCH):
        index = torch.arange(rows, dtype=torch.int32)[:, None]
        found = layout.steered(hidden, (V, index, torch.ones(rows, 1), None))
        own = V[:rows].expand(BATCH, HIDDEN)[:, None]
        assert torch.equal(batch_first(found), batch_first(hidden) + own)


def test_an_ambiguous_layout_follows_the_decoder_and_defaults_to_batch_first() -> None:
    assert StreamLayout.find((3, 3, 8), 3, 3, "XLNetModel").time_first
    assert StreamLayout.find((3, 3, 8), 3, 3, "GPT2Model") == StreamLayout()
    assert StreamLayout.find((3, 3, 3, 8), 3, 3, "Gemma3nTextModel").streams_first == 3
    assert StreamLayout.find((3, 3, 3, 8), 3, 3, "DeepseekV4Model").streams_first == 0


def test_a_stream_without_a_batch_axis_is_refused_by_name_and_shape() -> None:
    with pytest.raises(ValueError, match=r"a CpmAntModel was given 2 sequences of 3 .* \[6, 8\]"):
        StreamLayout.find((6, 8), BATCH, TOKENS, "CpmAntModel")
    with pytest.raises(ValueError, match="a GPT2Model was given 2 sequences of 3 tokens"):
        StreamLayout.find((TOKENS, BATCH, HIDDEN), BATCH, TOKENS, "GPT2Model")


def test_with_extra_tokens_rows_work_but_positions_and_reading_are_refused() -> None:
    shape = (BATCH, 5 + TOKENS, HIDDEN)
    layout = StreamLayout.find(shape, BATCH, TOKENS, "CpmAntModel")
    index = torch.tensor([[0], [1]], dtype=torch.int32)
    hidden = torch.randn(shape)
    found = layout.steered(hidden, (V, index, torch.ones(2, 1), None))
    assert torch.equal(found, ops.steer_add(None, hidden, V, index, torch.ones(2, 1)))
    with pytest.raises(ValueError, match=r"CpmAntModel hand on \[2, 8, 8\], with other tokens"):
        layout.require_tokens(shape, "CpmAntModel")
    with pytest.raises(ValueError, match="CpmAntModel hand on"):
        layout.require_readable(shape, "CpmAntModel")


def test_several_parallel_streams_are_not_read() -> None:
    shape, _ = SHAPES["Gemma3nTextModel"]
    layout = StreamLayout.find(shape, BATCH, TOKENS, "Gemma3nTextModel")
    with pytest.raises(ValueError, match="several streams per token: there is no single residual"):
        layout.require_readable(shape, "Gemma3nTextModel")
