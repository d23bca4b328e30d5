"""Score a steered model with EleutherAI's lm-evaluation-harness on your own questions.

    python examples/harness.py [MODEL] [CHOICES.json]

The harness receives the patched model and is unaware of the steering; neither is changed for the
other. The default questions are the demo's on sentiment. CHOICES.json holds rows of `question`,
`answer_matching_behavior` and `answer_not_matching_behavior`, as `faststeer data fetch behaviours`
saves them; a vector is extracted from some and scored on others. Needs faststeer[harness].
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
from faststeer.models import load

ITEMS = 100  # of a file: at most this many to extract from, and as many to score


def task_of(choices: list[Choice]) -> dict:
    """Describe a multiple-choice task to the harness, as its YAML files do, on rows in memory."""
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
    """Return the harness's results for the model as it is currently steered."""
    evaluated = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
    task_manager = TaskManager(include_defaults=False)  # indexing the defaults takes 10 s or more
    return lm_eval.simple_evaluate(
        model=evaluated, tasks=[task_of(choices)], task_manager=task_manager
    )


def pairs_and_choices(path: str | None) -> tuple[list[tuple[str, str]], list[Choice]]:
    """Return pairs to extract a vector from, and the questions to score it on."""
    if path is None:
        sentiment = Behaviour.shipped("sentiment")
        held_out = [Choice(i.prompt, i.positive, i.negative) for i in sentiment.held_out]
        return list(sentiment.pairs), held_out
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
            scores = harness_results(model, tokenizer, choices)["results"]["choices"]
            print(f"{coefficient:+.0f}: {scores['acc,none']:.3f} ± {scores['acc_stderr,none']:.3f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(*arguments[:1] or ["demo"], *arguments[1:2] or [None])
