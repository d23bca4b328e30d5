"""Every public name and every command of version 0.1 still exists."""

from __future__ import annotations

import importlib

import pytest
import typer.main

import faststeer
from faststeer.cli.main import app

NAMES = {
    "faststeer": """
ActAdd FaststeerWarning Handle Moments Patched SteeringVector __version__ act_add
activations after bake capture data diagnostics extract install pairs patch uninstall
when
""",
    "faststeer.data": """
Documents InChat OpenPrompt PairsFile PairsIn QuestionPairs TextsIn Trait behaviour
chat_text fetch hub_rows read_traits
""",
    "faststeer.diagnostics": """
Calibration Halves Inspection LayerFacts Lens TokenProjections as_html as_text auc
calibrate confounds cosines cosines_between halves inspect logit_lens pair_projections
project_tokens relative_dose residual_norms separability write_plots
""",
    "faststeer.evaluate": """
Choice ChoicesTask DocumentsTask Matching flat_records OpenPrompt Records SetScores Subject
TokenScores TraitsTask continuation_logprobs grid interval matching_scores
matching_scores_by_setting mean_interval measure_lines part_of perplexity read_choices
set_scores set_scores_by_setting sweep token_scores token_scores_by_setting
""",
    "faststeer.bench": "flat_records",
    "faststeer.extraction.methods": """
METHODS Statistic
""",
    "faststeer.experiments.broad_skills": """
CODE DEFAULT OTHERS PAPER PYTHON_ONLY QUICK Sets Size TEXT broad_skills code_sources
draw_sets text_sources
""",
    "faststeer.experiments.several_behaviours": """
BEHAVIOURS BehaviourQuestions Protocol read_behaviours several_behaviours
""",
    "faststeer.experiments.traits": "Protocol several_traits",
    "faststeer.models": "load continuations",
    "faststeer.ops": "accumulate_moments steer_add steer_add_rms_norm steer_add_rms_norm_out",
}
MEMBERS = {
    "Patched": """
ablate clear handles learn num_layers off prompt_lengths require_patched reserve rows
steer unpatch watch
""",
    "SteeringVector": """
__contains__ __getitem__ __iter__ __len__ at for_use from_object hidden_size layers load
normalized norms save select site to_object whitened with_norms
""",
    "Handle": """
active coefficient layers passed remove sites vector
""",
    "Moments": """
all_reduce device load load_state_dict merge save state_dict update variance
""",
    "ActAdd": """
apply
""",
}
COMMANDS = {
    "info": """

""",
    "demo": """
--output
""",
    "extract": """
--batch-size --behaviour --chat --columns --data --dataset --device --dtype --keep-sinks
--layer --layers --match-endings --max-length --method --model --name --negative
--num-layers --output --pairs --positive --read-token --site
""",
    "inspect": """
--batch-size --behaviour --beside --chat --coefficient --columns --data --dataset
--device --dtype --layer --layers --max-length --model --most-pairs --pairs --plots --read-token
--texts --tokens vector
""",
    "highlight": """
--device --dtype --html --layer --layers --max-length --model --text --texts vector
""",
    "calibrate": """
--device --dtype --layer --layers --max-length --model --opposite --target --texts vector
""",
    "generate": """
--chat --device --dtype --max-new-tokens --model --prompt --steer
""",
    "sweep": """
--at-once --batch-size --behaviour --coefficients --data --device --documents --dtype
--items --layer --layers --max-length --model --output --part --seed --vector
""",
    "report": """
--output folder
""",
    "bake": """
--dtype --mode --model --output --steer
""",
    "convert": """
--format --layer --layers --rows --shift source target
""",
    "check": """
--device --dtype --model --num-layers
""",
    "bench": """
--batch-sizes --compiled --device --dtype --model --new-tokens --num-layers --output
--prompt-tokens --rounds --threads
""",
    "data fetch": """
--output name
""",
    "experiment broad-skills": """
--batch-size --code --coefficients --device --documents --dtype --layer --layers --max-length
--model --output --paper --quick --seed --text
""",
    "experiment behaviours": """
--balanced --batch-size --behaviour --chat --coefficients --data --device --dtype --items
--layer --layers --model --output --paper --quick --seed --text --train --traits
""",
}


@pytest.mark.parametrize("module", NAMES)
def test_a_module_has_its_public_names(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in NAMES[module].split() if not hasattr(found, name)] == []


def test_the_top_level_module_lists_its_names() -> None:
    assert set(faststeer.__all__) == set(NAMES["faststeer"].split())


def test_dir_lists_the_public_names_alone() -> None:
    assert dir(faststeer) == sorted(NAMES["faststeer"].split())


def test_the_command_has_a_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        app(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"faststeer {faststeer.__version__}\n"


@pytest.mark.parametrize("name", MEMBERS)
def test_a_class_has_its_public_members(name: str) -> None:
    found = set(dir(getattr(faststeer, name)))
    assert set(MEMBERS[name].split()) - found == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_its_options(command: str) -> None:
    found = typer.main.get_command(app)
    for word in command.split():
        found = found.commands[word]
    taken = {
        option
        for parameter in found.params
        for option in (
            parameter.opts if parameter.param_type_name == "option" else [parameter.name]
        )
    }
    assert set(COMMANDS[command].split()) - taken == set()
