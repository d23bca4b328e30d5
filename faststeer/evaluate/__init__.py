"""Scores of steered models, and sweeps of scores over settings.

`matching_scores` scores answers to questions with options, `set_scores` with which of two sets
prompts are continued, and `token_scores` the next tokens of documents, all under the
active steering; their variants in ``_by_setting`` compare many settings at once. `interval` gives
bootstrap intervals, and `sweep` measures a task over vectors, layers and coefficients.
"""

from faststeer.data.questions import Choice, part_of, read_choices
from faststeer.data.trait_files import OpenPrompt
from faststeer.evaluate.bootstrap import interval, mean_interval
from faststeer.evaluate.continuation_sets import SetScores, set_scores, set_scores_by_setting
from faststeer.evaluate.flat import flat_records
from faststeer.evaluate.likelihood import continuation_logprobs, perplexity
from faststeer.evaluate.matching import Matching, matching_scores, matching_scores_by_setting
from faststeer.evaluate.next_token import TokenScores, token_scores, token_scores_by_setting
from faststeer.evaluate.records import Records
from faststeer.evaluate.sweeping import grid, measure_lines, sweep
from faststeer.evaluate.tasks import ChoicesTask, DocumentsTask, Subject
from faststeer.evaluate.trait_tasks import TraitsTask

__all__ = [
    "Choice",
    "ChoicesTask",
    "DocumentsTask",
    "Matching",
    "OpenPrompt",
    "Records",
    "SetScores",
    "Subject",
    "TokenScores",
    "TraitsTask",
    "continuation_logprobs",
    "flat_records",
    "grid",
    "interval",
    "matching_scores",
    "matching_scores_by_setting",
    "mean_interval",
    "measure_lines",
    "part_of",
    "perplexity",
    "read_choices",
    "set_scores",
    "set_scores_by_setting",
    "sweep",
    "token_scores",
    "token_scores_by_setting",
]
