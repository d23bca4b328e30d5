"""The sections of the experiment's result."""

from __future__ import annotations

from faststeer.experiments.generations import WORDS
from faststeer.experiments.result import FINDINGS, Section
from faststeer.experiments.settings import DIRECTIONS
from faststeer.experiments.several_behaviours import figures, tables
from faststeer.experiments.several_behaviours.findings import findings
from faststeer.experiments.several_behaviours.results import Results
from faststeer.experiments.several_behaviours.scores import MEASURES
from faststeer.experiments.several_behaviours.tune_jointly import HIGHEST_TAX, PENALTY


def sections(results: Results) -> list[Section]:
    """Return the tables and figures under their headings."""
    tested, latest = results.layers.tested, results.layers.latest
    return [
        Section(FINDINGS, findings(results)),
        Section(
            "Unsteered",
            "The matching score is the share of greedy answers that match. An answer that is no "
            "option is faulty and counts as a miss; one answer in over 95 % is a collapse. The "
            "matching probability is that of the matching option, given that it is one of the "
            "two; the mass is the probability of both. In brackets: 95 % bootstrap intervals.",
            [tables.unsteered_table(results)],
        ),
        Section(
            "The vectors",
            "Where one option matches in more than half of a set's pairs, its vector also points "
            "at that option's token, and sets with the same options share that direction.",
            [
                tables.vectors_table(results),
                *(tables.cosines_table(results, layer) for layer in tested),
            ],
            [figures.component_histograms(results)],
        ),
        Section(
            "One vector at one layer",
            "Each vector alone, added or subtracted with the coefficient that moved the score "
            "furthest on the validation part without collapsed or faulty answers. Combined: the "
            "mean or the sum of all vectors, unweighted or weighted with these coefficients. "
            "Tested on other questions; the mean change is from the unsteered model.",
            [
                tables.tuned_table(results),
                *(
                    tables.layer_table(results, layer, measure)
                    for layer in tested
                    for measure in MEASURES
                ),
            ],
            [
                draw(results, layer, measure)
                for draw in (figures.alone_bars, figures.combined_bars)
                for layer in tested
                for measure in MEASURES
            ],
        ),
        Section(
            "All at once, each at its layer",
            "All vectors steer at the same time, each at its layer. The tax is the share of the "
            "unsteered model's correct next tokens on general text that is lost. The best global "
            f"coefficient, {results.whole:+g}, has the highest mean probability on validation "
            f"questions at a tax of at most {HIGHEST_TAX:.0%}. The coefficients per behaviour are "
            "searched for from there; one point more of tax has to gain "
            f"{PENALTY:g} points of probability.",
            [
                *(tables.global_table(results, measure) for measure in MEASURES),
                tables.joint_table(results),
            ],
            [figures.global_curves(results)],
        ),
        Section(
            "Effects on the other behaviours",
            f"Each vector alone at layer {latest}, with the coefficient chosen for its own "
            "behaviour: the change of every behaviour's answers from the unsteered ones.",
            [
                tables.interactions_table(results, direction, measure)
                for direction in DIRECTIONS
                for measure in MEASURES
            ],
            [figures.interactions_matrix(results, measure) for measure in MEASURES],
        ),
        Section(
            "Generated text",
            f"Open questions, answered greedily; vectors alone steer at layer {latest}. Repetition "
            f"is the share of {WORDS} words in a row that occurred before in the text, perplexity "
            "is under the unsteered model.",
            tables.generation_tables(results),
        ),
    ]
