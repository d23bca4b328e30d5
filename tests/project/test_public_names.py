"""Every public name and every command of version 0.1 still exists."""

from __future__ import annotations

import importlib

import pytest
import typer.main

import faststeer
from faststeer.cli.main import app

NAMES = {
    "faststeer": """
ActAdd FaststeerWarning Handle HeadProbes Moments Patched SteeringVector __version__ act_add
activations after at bake between capture data diagnostics extract first install pairs patch
probe_heads to_lora tune uninstall until when when_active
""",
    "faststeer.data": """
Documents InChat OpenPrompt PairsFile PairsIn QuestionPairs TextsIn TextsInChat Trait behaviour
chat_text fetch hub_rows post_instruction read_traits
""",
    "faststeer.diagnostics": """
Calibration ComparedText Comparison Halves Inspection LayerFacts Lens NextToken
TokenProjections as_html as_text auc calibrate compare comparison_as_html comparison_as_text
comparison_fragment confounds cosines cosines_between halves inspect logit_lens pair_projections
project_tokens relative_dose residual_norms separability write_plots
""",
    "faststeer.diagnostics.conform": """
KINDS PROBES Answer Ask BrokenError Exchange Finding RefusedError Reply Report Setting Subject
Verdict examine
""",
    "faststeer.evaluate": """
Choice ChoicesTask DocumentsTask Matching flat_records OpenPrompt Records SetScores Subject
TokenScores TraitsTask continuation_logprobs grid interval matching_scores
matching_scores_by_setting mean_interval measure_lines part_of perplexity read_choices
set_scores set_scores_by_setting sweep token_scores token_scores_by_setting
""",
    "faststeer.diagnostics.bench": "flat_records",
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
    "faststeer.play": "Answer Batcher Request RequestError Sampling Stream Use",
    "faststeer.ops": "accumulate_moments steer_add steer_add_rms_norm steer_add_rms_norm_out",
}
MEMBERS = {
    "Patched": """
ablate cap clear handles learn num_layers off prompt_lengths require_patched reserve rows
steer unpatch watch
""",
    "SteeringVector": """
__contains__ __getitem__ __iter__ __len__ at for_use from_heads from_object from_pretrained
from_sae hidden_size
layers load normalized norms push_to_hub save select site to_object whitened with_norms
""",
    "Handle": """
active ceiling coefficient floor layers passed remove sites vector
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
    "play": """
--device --dtype --host --model --password --port --vectors
""",
    "extract": """
--batch-size --behaviour --cache --chat --columns --data --dataset --device --dtype --items
--keep-sinks --layer --layers --match-endings --max-length --method --model --name --negative
--num-layers --output --pairs --positive --read-token --site --system --template
""",
    "inspect": """
--batch-size --behaviour --beside --cache --chat --coefficient --columns --data --dataset
--device --dtype --items --layer --layers --max-length --model --most-pairs --pairs --plots
--read-token --system --template --texts --tokens vector
""",
    "highlight": """
--chat --device --dtype --html --layer --layers --max-length --model --system --template --text
--texts vector
""",
    "calibrate": """
--device --dtype --layer --layers --max-length --model --opposite --target --texts vector
""",
    "generate": """
--chat --device --dtype --max-new-tokens --model --prompt --steer --system --template
""",
    "compare": """
--chat --color --colour --device --dtype --layer --layers --max-new-tokens --model --output
--prompt --steer --system --template --text --vector
""",
    "sweep": """
--at-once --batch-size --behaviour --chat --coefficients --data --device --documents --dtype
--items --layer --layers --max-length --model --output --part --seed --system --template
--vector
""",
    "report": """
--output folder
""",
    "bake": """
--dtype --mode --model --output --steer
""",
    "to-lora": """
--embedding --fraction --layer --layers --model --output vector
""",
    "convert": """
--experiment --feature --format --layer --layers --rows --shift --site source target
""",
    "push": """
--base-model --branch --license --message --picture --private --pull-request repo vector
""",
    "pull": """
--filename --output --revision --sha256 repo
""",
    "check": """
--device --dtype --model --num-layers
""",
    "conform": """
--api-key --body --coefficient --early --fresh --last-layer --max-tokens --model --module
--multiplier --other --output --preset --prompt --steered --url --wrong
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
