"""Patching changes nothing but what it says, sees who else is there, and is exactly undone."""

import copy
import io
import pickle

import pytest
import torch
from hooked import hooked, random_vector
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import faststeer

IDS = torch.randint(0, 512, (3, 9), generator=torch.Generator().manual_seed(2))
VECTOR = random_vector("v", range(4))


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def expected_with_hooks(model):
    with hooked(model.model, [(VECTOR, 2.0, range(4))]):
        return logits(model)


def close(found, expected) -> bool:
    return bool((found - expected).abs().max() < 5e-6 * expected.abs().max().clamp(min=1))


def facts(model) -> list:
    """What unpatching has to restore."""
    return [
        (name, type(module), sorted(module.__dict__), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ]


def test_unpatching_restores_classes_attributes_and_bits(tiny_model) -> None:
    before, state, stock = facts(tiny_model), list(tiny_model.state_dict()), logits(tiny_model)
    with faststeer.patch(tiny_model) as patched:
        assert list(tiny_model.state_dict()) == state
        assert [name for name, _ in tiny_model.named_buffers()] == [
            "model.rotary_emb.inv_freq"
        ] or ("model.rotary_emb.inv_freq" in dict(tiny_model.named_buffers()))
        patched.steer(VECTOR, 2.0)
        assert not close(logits(tiny_model), stock)
        tiny_model(IDS, output_hidden_states=True)
    patched.unpatch()
    assert torch.equal(logits(tiny_model), stock)
    after = facts(tiny_model)
    root_marks = {"_output_capturing_hooks_installed"}  # transformers', once it has captured
    assert [(n, t, [a for a in d if a not in root_marks], h) for n, t, d, h in after] == before


def test_an_exception_inside_the_block_still_unpatches(tiny_model) -> None:
    before = facts(tiny_model)

    def fail() -> None:
        with faststeer.patch(tiny_model) as patched:
            patched.steer(VECTOR)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert facts(tiny_model) == before


def test_patching_twice_returns_the_same_handle(tiny_model) -> None:
    with faststeer.patch(tiny_model) as patched:
        assert faststeer.patch(tiny_model) is patched
        assert faststeer.patch(tiny_model.model) is patched
    again = faststeer.patch(tiny_model)
    assert again is not patched
    patched.unpatch()  # the old handle has no say any more
    assert faststeer.patch(tiny_model) is again
    again.unpatch()


def test_class_names_that_others_go_by_stay(tiny_model) -> None:
    with faststeer.patch(tiny_model):
        assert type(tiny_model.model.layers[0]).__name__ in tiny_model._no_split_modules
        assert type(tiny_model.model.norm).__name__ == "LlamaRMSNorm"


def test_other_models_are_refused_by_name_and_left_alone(tiny_model) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=50))
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel holds no decoder.*LlamaModel"):
        faststeer.patch(gpt2)
    with pytest.raises(TypeError, match="got a str"):
        faststeer.patch("model")
    both = nn.ModuleList([tiny_model, copy.deepcopy(tiny_model)])
    with pytest.raises(ValueError, match="holds 2 decoders"):
        faststeer.patch(both)

    class OwnLayer(type(tiny_model.model.layers[2])):
        pass

    tiny_model.model.layers[2].__class__ = OwnLayer
    before = facts(tiny_model)
    with pytest.raises(ValueError, match=r"layer 2 is a .*OwnLayer; only the stock"):
        faststeer.patch(tiny_model)
    assert facts(tiny_model) == before


def test_a_layer_wrapped_by_someone_else_is_refused(tiny_model) -> None:
    """Such a wrapper hides the class's forward: a naive patch would silently do nothing."""
    layer = tiny_model.model.layers[1]
    layer.forward = lambda *args, **kwargs: type(layer).forward(layer, *args, **kwargs)
    before = facts(tiny_model)
    with pytest.raises(ValueError, match="layer 1 has a `forward` of its own"):
        faststeer.patch(tiny_model)
    assert facts(tiny_model) == before


@pytest.mark.parametrize("where", ["input_layernorm", "post_attention_layernorm", "final"])
def test_a_norm_with_a_forward_of_its_own_is_called_as_it_is(tiny_model, where) -> None:
    """As kernelize and Liger leave them."""
    layer = tiny_model.model.layers[1]
    norm = tiny_model.model.norm if where == "final" else getattr(layer, where)
    norm.forward = torch.tanh
    stock, steered = logits(tiny_model), expected_with_hooks(tiny_model)
    with faststeer.patch(tiny_model) as patched:
        assert close(logits(tiny_model), stock)
        patched.steer(VECTOR, 2.0)
        assert close(logits(tiny_model), steered)
    assert torch.equal(logits(tiny_model), stock)


def test_a_leftover_forward_of_the_class_itself_does_not_hide_the_patch(tiny_model) -> None:
    """transformers 4.57 leaves one behind after output_hidden_states=True."""
    expected, stock = expected_with_hooks(tiny_model), logits(tiny_model)
    for layer in tiny_model.model.layers:
        layer.forward = layer.forward
    with faststeer.patch(tiny_model) as patched:
        patched.steer(VECTOR, 2.0)
        assert close(logits(tiny_model), expected)
        for layer in tiny_model.model.layers:
            layer.forward = layer.forward
        assert close(logits(tiny_model), expected)
    assert torch.equal(logits(tiny_model), stock)


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


def test_a_hook_on_a_norm_is_called_with_what_the_stock_model_would_give_it(tiny_model) -> None:
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


def test_hidden_states_show_what_the_model_reads_and_cost_nothing_afterwards(tiny_model) -> None:
    with hooked(tiny_model.model, [(VECTOR, 2.0, range(4))]), torch.no_grad():
        # Captured beside our hooks, stock shows the values before them; read them ourselves.
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
    """Counts norms that one layer computed for the next."""

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


def test_a_change_of_the_layers_after_patching_is_noticed(tiny_model) -> None:
    """A norm computed for one layer is never given to another."""
    with faststeer.patch(tiny_model):
        del tiny_model.model.layers[1]
        tiny_model.config.num_hidden_layers = 3
        found = logits(tiny_model)
        tiny_model.config.num_hidden_layers = 2
        shorter = logits(tiny_model)
    assert close(shorter, logits(tiny_model))
    tiny_model.config.num_hidden_layers = 3
    assert close(found, logits(tiny_model))


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_a_patched_model_can_be_copied_and_the_copy_is_its_own(tiny_model, copied) -> None:
    expected, stock = expected_with_hooks(tiny_model), logits(tiny_model)
    with faststeer.patch(tiny_model) as patched:
        patched.steer(VECTOR, 2.0)
        if copied == "deepcopy":
            other = copy.deepcopy(tiny_model)
        elif copied == "pickle":
            other = pickle.loads(pickle.dumps(tiny_model))
        else:
            file = io.BytesIO()
            torch.save(tiny_model, file)
            file.seek(0)
            other = torch.load(file, weights_only=False)
        assert close(logits(other), expected)
        faststeer.patch(other)["v"].coefficient = 0.0
        assert close(logits(other), stock)
        assert close(logits(tiny_model), expected)
        faststeer.patch(other).unpatch()
        assert torch.equal(logits(other), stock)
        assert close(logits(tiny_model), expected)


def test_save_pretrained_of_a_patched_model_is_a_stock_checkpoint(tiny_model, tmp_path) -> None:
    stock = logits(tiny_model)
    with faststeer.patch(tiny_model) as patched:
        patched.steer(VECTOR, 2.0)
        tiny_model.save_pretrained(tmp_path)
    loaded = type(tiny_model).from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), stock)


def test_the_bare_decoder_and_a_peft_model_can_be_patched(tiny_model) -> None:
    from peft import LoraConfig, get_peft_model

    expected = expected_with_hooks(tiny_model)
    with torch.no_grad(), hooked(tiny_model.model, [(VECTOR, 2.0, range(4))]):
        hidden = tiny_model.model(IDS).last_hidden_state
    with faststeer.patch(tiny_model.model) as patched, torch.no_grad():
        patched.steer(VECTOR, 2.0)
        assert close(tiny_model.model(IDS).last_hidden_state, hidden)
    torch.manual_seed(0)  # adapters that blow the logits up leave no digits to compare
    adapted = get_peft_model(tiny_model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    stock = logits(adapted)
    with hooked(adapted.base_model.model.model, [(VECTOR, 2.0, range(4))]):
        lora_expected = logits(adapted)
    assert not close(lora_expected, expected)
    with faststeer.patch(adapted) as patched:
        assert close(logits(adapted), stock)
        patched.steer(VECTOR, 2.0)
        assert close(logits(adapted), lora_expected)
    assert torch.equal(logits(adapted), stock)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_mixed_dtypes_give_the_stock_result_dtypes(make_tiny, dtype) -> None:
    model = make_tiny()
    for norms_in_half in (False, True):
        for module in model.modules():
            if norms_in_half and type(module).__name__ == "LlamaRMSNorm":
                module.to(dtype)
        with torch.autocast("cpu", dtype):
            stock = logits(model)
            with faststeer.patch(model):
                found = logits(model)
        assert found.dtype == stock.dtype
        torch.testing.assert_close(found, stock, rtol=0.1, atol=0.1)
    wide_norms = make_tiny(dtype)  # as prepare_model_for_kbit_training leaves a model
    for module in wide_norms.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.to(torch.float32)
    with torch.autocast("cpu", dtype):
        stock = logits(wide_norms)
        with faststeer.patch(wide_norms) as patched:
            found = logits(wide_norms)
            patched.steer(VECTOR, 2.0)
            assert not close(logits(wide_norms), stock)
    assert torch.equal(found, stock)


def test_a_float64_model_is_steered_in_float64(make_tiny) -> None:
    model = make_tiny(torch.float64)
    stock, expected = logits(model), expected_with_hooks(model)
    with faststeer.patch(model) as patched:
        assert torch.equal(logits(model), stock)
        patched.steer(VECTOR, 2.0)
        assert close(logits(model), expected)


def test_a_loop_of_ones_own_over_the_layers_may_edit_between_them(tiny_model) -> None:
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
