"""Train a vector to make wanted completions likely; compare it with a difference of means.

    python examples/learn_a_vector.py [MODEL]

The difference of means points from one kind of text to another. A vector can also be optimised for
its purpose: here the log-probability of given completions (Subramani et al. 2022, "Extracting
Latent Steering Vectors from Pretrained Language Models"). Both are scored, at the same norm, on
prompts and completions that neither was made from.
"""

import sys

import torch
from torch import Tensor

import faststeer
from faststeer.data.batches import left_padded
from faststeer.data.shipped import Behaviour
from faststeer.evaluate.likelihood import continuation_logprobs
from faststeer.models import load

STEPS = 12


def batch_of(tokenizer, items) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, mask and labels ``[B, T]``; labels are -100 except on the completions."""
    prompts = [tokenizer(item.prompt)["input_ids"] for item in items]
    wanted = [tokenizer(item.positive, add_special_tokens=False)["input_ids"] for item in items]
    rows = [prompt + completion for prompt, completion in zip(prompts, wanted, strict=True)]
    batch = left_padded(rows, tokenizer.pad_token_id, torch.device("cpu"))
    labels = torch.full_like(batch.ids, -100)
    for row, completion in enumerate(wanted):
        labels[row, -len(completion) :] = torch.tensor(completion)
    return batch.ids, batch.mask, labels


def train(model, tokenizer, start: faststeer.SteeringVector, layer: int, items):
    """Train a vector, with the norm of `start`, that makes the items' completions likely."""
    model.requires_grad_(False)
    ids, mask, labels = batch_of(tokenizer, items)
    norm = start.norms()[layer]
    with faststeer.patch(model) as patched:
        learned = patched.learn(start, layers=layer, name="learned")
        optimizer = torch.optim.Adam(learned.parameters(), lr=0.06 * norm / start.hidden_size**0.5)
        for _ in range(STEPS):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        vector = learned.vector
    return vector * (norm / vector.norms()[layer])


def score(model, tokenizer, items, vector=None, layer=None) -> float:
    """Return the mean log-probability of the wanted completions, in nats."""
    pairs = [(item.prompt, item.positive) for item in items]
    with faststeer.patch(model) as patched:
        if vector is not None:
            patched.steer(vector, layers=layer)
        return float(continuation_logprobs(model, tokenizer, pairs).mean())


def main(name: str) -> None:
    torch.manual_seed(0)
    loaded = load(name, dtype=torch.float32)
    model, tokenizer = loaded.model, loaded.tokenizer
    behaviour = Behaviour.shipped("sentiment")
    train_items, test_items = behaviour.held_out[::2], behaviour.held_out[1::2]
    layer = model.config.num_hidden_layers // 2
    mean = faststeer.extract(model, tokenizer, behaviour.pairs, name="mean", layers=layer)
    learned = train(model, tokenizer, mean, layer, train_items)
    cosine = torch.cosine_similarity(mean.directions[layer], learned.directions[layer], 0)
    print(f"layer {layer}, norm {mean.norms()[layer]:.2f}, cosine of the two {cosine:.2f}")
    print("log p of wanted completions, on prompts that were not trained on:")
    print(f"  unsteered            {score(model, tokenizer, test_items):7.3f}")
    print(f"  difference of means  {score(model, tokenizer, test_items, mean, layer):7.3f}")
    print(f"  learned              {score(model, tokenizer, test_items, learned, layer):7.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
