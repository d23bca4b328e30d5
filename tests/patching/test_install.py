"""After install() every new model of a known family is fused and steerable, and exactly undone."""

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
import transformers
from other_threads import in_the_middle
from patched_tiny import IDS, VECTOR, close, expected_with_hooks, logits
from plain_hooks import hooked
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import faststeer
from faststeer.models.families.llama import SteeredLlamaDecoderLayer

pytestmark = pytest.mark.usefixtures("undone")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_tiny):
    path = tmp_path_factory.mktemp("model")
    make_tiny().save_pretrained(path)
    return path


def load(folder, **how) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **how).eval()


def layer_type(model) -> type:
    return type(model.model.layers[2])


def facts(model) -> list[Any]:
    return [
        (
            name,
            type(module),
            sorted(module.__dict__),
            len(module._forward_pre_hooks),
            len(module._forward_hooks),
        )
        for name, module in model.named_modules()
    ]


HOW = [{}, {"dtype": torch.bfloat16}, {"device_map": "cpu"}, {"low_cpu_mem_usage": True}]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_a_model_loaded_later_is_fused_and_patch_returns_its_handle(folder, plain, how) -> None:
    stock = load(folder, **how)
    faststeer.install()
    model = load(folder, **how)
    assert layer_type(model) is SteeredLlamaDecoderLayer
    assert layer_type(stock) is LlamaDecoderLayer
    with faststeer.patch(stock) as patched:
        idle = logits(stock)
        patched.steer(VECTOR, 2.0)
        steered = logits(stock)
    assert torch.equal(logits(model), idle)
    patched = faststeer.patch(model)
    assert faststeer.patch(model.model) is patched
    patched.steer(VECTOR, 2.0)
    assert torch.equal(logits(model), steered)
    patched.steer(VECTOR, 2.0, positions="generated")
    model.generate(IDS, max_new_tokens=2, pad_token_id=0)


def test_uninstalling_restores_every_model_and_later_ones_are_stock(folder, tiny_model) -> None:
    before = load(folder)
    wanted, stock = facts(before), logits(before)
    with faststeer.patch(tiny_model) as own:
        for _ in range(2):
            faststeer.install()
        untouched, steered, left = (load(folder) for _ in range(3))
        patched = faststeer.patch(steered)
        patched.steer(VECTOR, 2.0)
        with faststeer.patch(left) as gone:
            gone.steer(VECTOR, 2.0)
        for _ in range(2):
            faststeer.uninstall()
        for model in (untouched, steered, left, load(folder)):
            assert facts(model) == wanted
            assert torch.equal(logits(model), stock)
        with pytest.raises(ValueError, match="was unpatched"):
            patched.steer(VECTOR)
        assert faststeer.patch(tiny_model) is own  # patched explicitly, not by install
    faststeer.install()
    assert layer_type(load(folder)) is SteeredLlamaDecoderLayer


def test_a_saved_model_is_the_stock_model(folder, plain, tmp_path) -> None:
    faststeer.install()
    model = load(folder)
    assert list(model.state_dict()) == list(plain.state_dict())
    faststeer.patch(model).steer(VECTOR, 2.0)
    model.save_pretrained(tmp_path)
    faststeer.uninstall()
    assert torch.equal(logits(load(tmp_path)), logits(plain))


def test_a_model_hidden_inside_other_code_is_steered_by_prepare(tiny_folder) -> None:
    prompt, settings = "steer me", {"max_new_tokens": 8, "do_sample": False}
    vector = VECTOR.select([1, 2])

    def completion() -> str:
        pipe = transformers.pipeline("text-generation", model=str(tiny_folder))
        pipe.model.generation_config.eos_token_id = None
        return str(pipe(prompt, return_full_text=False, **settings)[0]["generated_text"])

    def by_hooks() -> str:
        pipe = transformers.pipeline("text-generation", model=str(tiny_folder))
        pipe.model.generation_config.eos_token_id = None
        with hooked(pipe.model.model, [(vector, 3.0, [1, 2])]):
            return str(pipe(prompt, return_full_text=False, **settings)[0]["generated_text"])

    stock, expected = completion(), by_hooks()
    assert stock != expected
    faststeer.install(lambda patched: patched.steer(vector, 3.0))
    assert completion() == expected
    faststeer.install(lambda patched: patched.steer(vector, 3.0, positions="last"))
    assert completion() not in (stock, expected)  # the outer model's generate provides the prompts
    faststeer.install()
    assert completion() == stock

    def fail(patched) -> None:
        raise RuntimeError("mine")

    faststeer.install(fail)
    with pytest.raises(RuntimeError, match="mine"):
        load(tiny_folder)


def test_a_model_that_peft_wraps_later_is_steered(folder, plain) -> None:
    from peft import LoraConfig, get_peft_model

    faststeer.install()
    with torch.random.fork_rng(devices=[]):
        adapted = get_peft_model(load(folder), LoraConfig(r=2, target_modules=["q_proj"]))
    expected = expected_with_hooks(plain)  # a new adapter adds zero
    faststeer.patch(adapted).steer(VECTOR, 2.0)
    assert close(logits(adapted), expected)
    faststeer.uninstall()
    assert close(logits(adapted), logits(plain))


def llava() -> Any:
    side = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = {**side, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            **side, num_hidden_layers=2, image_size=8, patch_size=4
        ),
        text_config=transformers.LlamaConfig(
            **text, num_hidden_layers=4, vocab_size=512, initializer_range=0.1, eos_token_id=None
        ),
        image_token_index=511,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.LlavaForConditionalGeneration(config).eval()


def test_the_text_model_inside_a_multimodal_one_is_steered(folder) -> None:
    ids = IDS[:1].clamp(max=510)
    ids[0, 1:5] = 511  # the image's patches
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    how = {"pixel_values": image, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}

    def scores(model: Any) -> torch.Tensor:
        found = model.generate(ids, output_scores=True, return_dict_in_generate=True, **how)
        return torch.stack(found.scores)

    stock = llava()
    with hooked(stock.model.language_model, [(VECTOR, 2.0, range(4))]):
        expected = scores(stock)
    faststeer.install()
    model = llava()
    assert close(scores(model), scores(stock))
    patched = faststeer.patch(model)
    handle = patched.steer(VECTOR, 2.0)
    assert close(scores(model), expected)
    handle.remove()
    patched.steer(VECTOR, 2.0, positions="generated")
    generated = scores(model)
    assert close(generated[0], scores(stock)[0])  # the first is determined by the prompt
    assert not close(generated[1], scores(stock)[1])


def test_a_fused_model_is_freed_with_its_last_reference(folder) -> None:
    """Immediately, like stock models: a GPU's memory may be needed for the next."""
    faststeer.install()
    model = load(folder)
    model.generate(IDS, max_new_tokens=2, pad_token_id=0)
    gone = weakref.ref(model.model)
    gc.collect()
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_a_fused_model_without_a_handle_can_be_copied_and_its_copies_are_undone(
    folder, plain
) -> None:
    faststeer.install()
    model = load(folder)
    other = copy.deepcopy(model)
    faststeer.patch(other).steer(VECTOR, 2.0)
    assert close(logits(other), expected_with_hooks(plain))
    assert close(logits(model), logits(plain))
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy(other)
    with pytest.raises(TypeError, match=r"cannot be pickled.*faststeer.uninstall\(\)"):
        pickle.dumps(model)
    third = copy.deepcopy(model)
    faststeer.uninstall()
    for one in (model, other, third):
        assert layer_type(one) is LlamaDecoderLayer
        assert torch.equal(logits(one), logits(plain))


def test_threads_may_share_a_fused_model_like_a_stock_one(folder, plain) -> None:
    faststeer.install()
    model = load(folder)
    assert close(in_the_middle(model, lambda: logits(model)), logits(plain))
    faststeer.patch(model)
    assert isinstance(in_the_middle(model, lambda: logits(model)), RuntimeError)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_fused_model_compiles_in_one_graph_and_is_steered_in_it(make_tiny, elsewhere) -> None:
    """Including a model that was moved before its first run, to a device without its tables."""
    torch._dynamo.reset()
    faststeer.install()
    model = make_tiny(layers=2)
    if elsewhere:
        plan = model.model._faststeer.attachment.plan
        plan.tables.follow_devices([torch.device("meta")] * 2)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.inference_mode():
        idle = compiled(IDS).logits
        assert close(idle, model(IDS).logits)
        patched = faststeer.patch(model)
        assert torch.equal(compiled(IDS).logits, idle)
        with torch._dynamo.config.patch(error_on_recompile=True):
            patched.steer(VECTOR.select([0, 1]), 2.0)
            steered = compiled(IDS).logits
        torch.testing.assert_close(steered, model(IDS).logits, rtol=0, atol=1e-5)
    assert not close(steered, idle)
    torch._dynamo.reset()
