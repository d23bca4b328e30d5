"""How far a model was steered, and at what price: scores, and sweeps of them.

Answers to questions with options (`matching_scores`) and next tokens of documents
(`token_scores`), each of a model as it stands or under many settings at once (`..._by_setting`);
`interval` says how sure they are, `sweep` measures a task over vectors, layers and coefficients.
"""

from faststeer.data.questions import Choice, part_of, read_choices
from faststeer.evaluate.bootstrap import interval, mean_interval
from faststeer.evaluate.likelihood import continuation_logprobs, perplexity
from faststeer.evaluate.matching import Matching, matching_scores, matching_scores_by_setting
from faststeer.evaluate.next_token import TokenScores, token_scores, token_scores_by_setting
from faststeer.evaluate.records import Records
from faststeer.evaluate.sweeping import grid, measure_lines, sweep
from faststeer.evaluate.tasks import ChoicesTask, DocumentsTask, Subject

__all__ = [
    "Choice",
    "ChoicesTask",
    "DocumentsTask",
    "Matching",
    "Records",
    "Subject",
    "TokenScores",
    "continuation_logprobs",
    "grid",
    "interval",
    "matching_scores",
    "matching_scores_by_setting",
    "mean_interval",
    "measure_lines",
    "part_of",
    "perplexity",
    "read_choices",
    "sweep",
    "token_scores",
    "token_scores_by_setting",
]
