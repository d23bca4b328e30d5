"""Score a steered model with EleutherAI's lm-evaluation-harness, on questions of one's own.

    python examples/harness.py [MODEL] [CHOICES.json]

The harness is given the patched model and knows nothing of steering; neither is changed for the
other. By default the questions are the demo's on sentiment. CHOICES.json holds rows of `question`,
`answer_matching_behavior` and `answer_not_matching_behavior`, as `faststeer data fetch behaviours`
saves them; a vector is made from some of them and scored on others. Needs faststeer[harness].
"""

import logging
import sys

import datasets
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import faststeer
from faststeer.data.shipped import Behaviour
from faststeer.evaluate import Choice, part_of, read_choices
from faststeer.models.loading import load

ITEMS = 100  # of a file at most: to make the vector from, and as many again to score


def task_of(choices: list[Choice]) -> dict:
    """What the harness's YAML files say of a task, on rows that are here already."""
    rows = datasets.Dataset.from_list([choice._asdict() for choice in choices])
    return {
        "task": "choices",
        "custom_dataset": lambda **_: {"test": rows},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_choice": lambda row: [row["matching"], row["other"]],
        "doc_to_target": 0,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def harness_results(model, tokenizer, choices: list[Choice]) -> dict:
    """What the harness says of the model as it stands."""
    evaluated = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
    none_of_its_own = TaskManager(include_defaults=False)  # reading those takes 10 s or more
    return lm_eval.simple_evaluate(
        model=evaluated, tasks=[task_of(choices)], task_manager=none_of_its_own
    )


def pairs_and_choices(path: str | None) -> tuple[list[tuple[str, str]], list[Choice]]:
    """What a vector is made from, and the questions that it is scored on."""
    if path is None:
        own = Behaviour.shipped("sentiment")
        return list(own.pairs), [Choice(i.prompt, i.positive, i.negative) for i in own.held_out]
    choices = part_of(read_choices(path), "all")
    half = min(ITEMS, len(choices) // 2)
    train, test = choices[:half], choices[half : 2 * half]
    return [(c.question + c.matching, c.question + c.other) for c in train], test


def main(name: str, path: str | None) -> None:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    loaded = load(name)
    model, tokenizer = loaded.model, loaded.tokenizer
    pairs, choices = pairs_and_choices(path)
    layer = model.config.num_hidden_layers * 2 // 3
    vector = faststeer.extract(model, tokenizer, pairs, name="wanted", layers=layer)
    print(f"{len(choices)} questions, layer {layer}: share of wanted answers, standard error")
    with faststeer.patch(model) as patched:
        wanted = patched.steer(vector)
        for coefficient in (0.0, 1.0, -1.0):
            wanted.coefficient = coefficient
            found = harness_results(model, tokenizer, choices)["results"]["choices"]
            print(f"{coefficient:+.0f}: {found['acc,none']:.3f} ± {found['acc_stderr,none']:.3f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(*arguments[:1] or ["demo"], *arguments[1:2] or [None])
