"""Run one process of a tensor-parallel model under torchrun; the first writes the results.

python -m torch.distributed.run --standalone --nproc-per-node 2 \\
    tensor_parallel_worker.py MODEL VECTOR FOUND
"""

import sys
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_module
from transformers import LlamaForCausalLM
from transformers.distributed import DistributedConfig

import faststeer

IDS = torch.arange(3, 21).view(2, 9)


def computed(model: Any, vector: faststeer.SteeringVector) -> dict[str, Tensor]:
    """Return the model's logits unsteered, steered, and with only its second sequence steered."""
    with torch.inference_mode(), faststeer.patch(model) as patched:
        found = {"idle": model(IDS).logits}
        patched.steer(vector, 1.5)
        found["steered"] = model(IDS).logits
        with patched.rows([{}, {vector.name: -1.0}]):
            found["rows"] = model(IDS).logits
            found["generated"] = model.generate(
                IDS, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0
            )
    return found


def with_a_norm_on_the_mesh(norm: nn.Module, mesh: Any) -> None:
    """Turn a norm's weight into a DTensor, as some tensor-parallel plans do."""
    distribute_module(
        norm,
        mesh,
        input_fn=lambda module, inputs, mesh: (DTensor.from_local(inputs[0], mesh),),
        output_fn=lambda module, output, mesh: output.to_local(),
    )


def main(folder: str, vector_file: str, result: str) -> None:
    vector = faststeer.SteeringVector.load(vector_file)
    config = DistributedConfig(tp_plan="auto")
    model = LlamaForCausalLM.from_pretrained(folder, distributed_config=config)
    sharded = model.model.layers[0].mlp.up_proj.weight
    assert sharded.to_local().shape[0] == model.config.intermediate_size // 2
    found = computed(model, vector)
    for norm in (model.model.layers[1].post_attention_layernorm, model.model.norm):
        with_a_norm_on_the_mesh(norm, sharded.device_mesh)
        assert isinstance(norm.weight, DTensor)
    found |= {f"{name}, norms too": one for name, one in computed(model, vector).items()}
    if torch.distributed.get_rank() == 0:
        save_file(found, result)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
