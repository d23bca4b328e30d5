"""Other code's hooks and recorders see in a patched model what a steered stock model shows."""

import pytest
import torch
from patched_tiny import IDS, VECTOR, close, logits
from plain_hooks import hooked, random_vector
from torch import nn

import faststeer


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_see_and_may_edit_the_full_steered_residual(tiny_model, in_place, when) -> None:
    seen = []

    def edit(hidden):
        seen.append(hidden.clone())
        if in_place:
            hidden.mul_(0.5)
            return None
        return hidden * 0.5

    def after(module, args, output):
        return edit(output)

    def before(module, args):
        edited = edit(args[0])
        return None if edited is None else (edited, *args[1:])

    def register():
        block, block_after = tiny_model.model.layers[1], tiny_model.model.layers[2]
        return [
            block.register_forward_hook(after),
            block_after.register_forward_pre_hook(before),
            tiny_model.model.norm.register_forward_pre_hook(before),
        ]

    with hooked(tiny_model.model, [(VECTOR, 2.0, range(4))]):
        hooks = register()
        expected, expected_seen = logits(tiny_model), seen[:]
        for hook in hooks:
            hook.remove()
    seen.clear()
    hooks = register() if when == "before" else []
    with faststeer.patch(tiny_model) as patched:
        hooks = hooks or register()
        patched.steer(VECTOR, 2.0)
        assert close(logits(tiny_model), expected)
        for one, other in zip(seen, expected_seen, strict=True):
            assert close(one, other)
        for hook in hooks:
            hook.remove()
        assert close(logits(tiny_model), expected_with_hooks_removed(tiny_model, patched))


def expected_with_hooks_removed(model, patched):
    patched.clear()
    with hooked(model.model, [(VECTOR, 2.0, range(4))]):
        expected = logits(model)
    patched.steer(VECTOR, 2.0)
    return expected


def test_a_hook_on_a_norm_gets_the_same_arguments_as_in_the_stock_model(tiny_model) -> None:
    layer = tiny_model.model.layers[2]
    for norm in (layer.input_layernorm, layer.post_attention_layernorm, tiny_model.model.norm):
        seen = []
        hook = norm.register_forward_hook(lambda m, a, o, seen=seen: seen.append((a[0], o)))
        logits(tiny_model)
        with faststeer.patch(tiny_model):
            logits(tiny_model)
        hook.remove()
        (stock_in, stock_out), (found_in, found_out) = seen
        assert close(found_in, stock_in)
        assert close(found_out, stock_out)


def test_a_global_hook_sees_every_norm(tiny_model) -> None:
    seen = []
    with faststeer.patch(tiny_model):
        hook = nn.modules.module.register_module_forward_hook(
            lambda module, args, output: seen.append(type(module).__name__)
        )
        try:
            logits(tiny_model)
        finally:
            hook.remove()
    assert seen.count("LlamaRMSNorm") == 9


def test_hidden_states_show_the_steered_stream_and_cost_nothing_afterwards(tiny_model) -> None:
    with hooked(tiny_model.model, [(VECTOR, 2.0, range(4))]), torch.no_grad():
        # Stock hidden states show the values before our hooks, so that we read them ourselves.
        seen = [None] * 4
        hooks = [
            block.register_forward_hook(lambda m, a, o, n=n: seen.__setitem__(n, o))
            for n, block in enumerate(tiny_model.model.layers)
        ]
        tiny_model(IDS)
        for hook in hooks:
            hook.remove()
    with faststeer.patch(tiny_model) as patched, torch.no_grad():
        handed_over = CountHandovers(tiny_model)
        patched.steer(VECTOR, 2.0)
        tiny_model(IDS)
        before = handed_over.count
        hidden = tiny_model(IDS, output_hidden_states=True).hidden_states
        for layer in range(3):
            assert close(hidden[layer + 1], seen[layer])
        handed_over.count = 0
        tiny_model(IDS)
        assert handed_over.count == before == 4


class CountHandovers:
    """Counter of norms that one layer computed for the next."""

    def __init__(self, model) -> None:
        self.count = 0
        handoff = model.model.norm._faststeer
        take = handoff.take

        def counted(residual, norm):
            found = take(residual, norm)
            self.count += found is not None
            return found

        handoff.take = counted


def test_the_embedding_site_shows_in_hidden_states(tiny_model) -> None:
    vector = random_vector("e", [0], site="resid_pre")
    with faststeer.patch(tiny_model) as patched, torch.no_grad():
        patched.steer(vector, 2.0)
        hidden = tiny_model(IDS, output_hidden_states=True).hidden_states
        assert close(hidden[0], tiny_model.model.embed_tokens(IDS) + 2 * vector.directions[0])


def test_a_custom_loop_over_the_layers_may_edit_between_them(tiny_model) -> None:
    def own_loop():
        with torch.no_grad():
            hidden = tiny_model.model.embed_tokens(IDS)
            positions = torch.arange(IDS.shape[1])[None]
            embeddings = tiny_model.model.rotary_emb(hidden, positions)
            for layer in tiny_model.model.layers:
                hidden = layer(hidden, attention_mask=None, position_embeddings=embeddings)
                hidden += 1
            return tiny_model.model.norm(hidden)

    expected = own_loop()
    with faststeer.patch(tiny_model):
        assert close(own_loop(), expected)
