"""Layers and coefficients of several behaviours are chosen by rules that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from faststeer.evaluate.bootstrap import interval, mean_interval
from faststeer.evaluate.records import key_of
from faststeer.experiments.estimates import tax
from faststeer.experiments.generations import repetition
from faststeer.experiments.search import search
from faststeer.experiments.settings import Place, alone
from faststeer.experiments.several_behaviours import BEHAVIOURS, Protocol
from faststeer.experiments.several_behaviours.protocol import Layers, fitted
from faststeer.experiments.several_behaviours.tune_alone import tune


def test_coefficients_are_chosen_by_score_then_probability_then_size() -> None:
    def record(score: float, probability: float, collapsed: bool = False) -> dict:
        scores = {"score": score, "probability": probability, "faulty": 0, "collapsed": collapsed}
        return {"scores": scores, "items": {"answers": ["A"] * 20}}

    measured = {
        1.0: record(0.6, 0.5),
        2.0: record(0.7, 0.6),
        3.0: record(0.7, 0.6),
        5.0: record(0.9, 0.9, collapsed=True),
        -1.0: record(0.4, 0.5),
        -2.0: record(0.4, 0.4),
        -3.0: record(0.5, 0.1),
    }
    found = {key_of(alone("myopic", 1, c)): own for c, own in measured.items()}
    found[key_of({})] = record(0.5, 0.5)
    chosen = tune({"myopic": found}, [1], list(measured))
    assert chosen == {Place("myopic", 1, "add"): 2.0, Place("myopic", 1, "subtract"): -2.0}
    found[key_of({})] = record(0.5, 0.5, collapsed=True)  # then a collapse is not informative
    assert tune({"myopic": found}, [1], list(measured))[Place("myopic", 1, "add")] == 5.0


def test_the_search_finds_improvements_and_never_ends_worse() -> None:
    best = {"a": 1.5, "b": -0.5, "c": 3.0}

    def judge(choices):
        return [-sum((own[n] - best[n]) ** 2 for n in best) for own in choices]

    start = dict.fromkeys(best, 1.0)
    found = search(judge, start, step=0.5, rounds=8)
    assert judge([found])[0] > -0.02
    assert search(lambda choices: [0.0 for _ in choices], start, step=0.5, rounds=3) == start


def test_an_interval_of_means_is_that_of_resampled_means() -> None:
    values = torch.linspace(0, 1, 40) ** 3
    by_draws = interval(lambda at: float(values[at].mean()), 40, draws=4000)
    assert mean_interval(values, draws=4000) == pytest.approx(by_draws, abs=0.01)
    low, high = mean_interval(values, values, values, values, draws=4000)
    assert high - low == pytest.approx((by_draws[1] - by_draws[0]) / 2, rel=0.1)
    with pytest.raises(ValueError, match="no items"):
        mean_interval(values, values[:0])


def test_repetition_is_the_share_of_repeated_trigrams() -> None:
    assert repetition("to be or not to be") == 0
    assert repetition("so it is so it is") == 0.25
    assert repetition("no no no no no") == pytest.approx(2 / 3)
    assert repetition("no no") is None


def test_layers_are_the_papers_for_a_similar_depth_and_proportional_otherwise() -> None:
    assert [fitted(layer, 30) for layer in (0, 10, 15, 29, 31)] == [0, 10, 15, 29, 29]
    assert [fitted(layer, 8) for layer in (0, 10, 15, 31)] == [0, 2, 3, 7]
    layers = Layers.of(Protocol(), BEHAVIOURS, 30)
    assert layers.alone == [5, 10, 15, 20]
    assert layers.tested == {10: 10, 15: 15}
    assert list(layers.at_once.values()) == [11, 12, 13, 14, 15]
    assert Layers.of(Protocol(), BEHAVIOURS, 30, [8, 12, 25]).tested == {12: None, 25: None}


def test_the_tax_is_the_share_of_correct_next_tokens_that_is_lost() -> None:
    half, quarter, none = ({"scores": {"text": {"accuracy": a}}} for a in (0.5, 0.25, 0.0))
    assert tax(quarter, half) == 0.5
    assert tax(half, quarter) == -1
    assert tax(half, half) == tax(none, none) == 0
