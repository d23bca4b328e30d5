"""The keys of a control vector's GGUF: its use, its site, and facts about it.

llama.cpp and repeng write ``model_hint`` and ``layer_count`` and add every direction to a block's
output. Other writers put more under ``controlvector.``: a mode of use, a component of the model, a
centre that their loader subtracts, or plain provenance. Provenance is kept, a mode or site that
faststeer has is honoured, and every other key is refused by name: llama.cpp would ignore it and
add the directions.

EasySteer writes ``method`` (how a direction was made) and ``easysteer``, a JSON object with the
``component`` that was read, or in early versions one key per fact (easysteer/extraction/result.py
at github.com/ZJU-REAL/EasySteer).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from faststeer.vectors.formats.gguf_header import ARCHITECTURE
from faststeer.vectors.sites import SITES

METADATA = "faststeer.metadata"

# Other programs' names for the modes of `Patched.steer`.
MODE_NAMES = {
    **dict.fromkeys(("add", "additive", "addition", "direct"), "add"),
    **dict.fromkeys(("project", "projection", "ablate", "ablation", "erase"), "project"),
    "clamp": "clamp",
}
_BLOCK_OUTPUTS = ("resid_post", "hidden_states", "block_output", "layer_output", "decoder_block")
SITE_NAMES = dict.fromkeys(_BLOCK_OUTPUTS, "resid_post") | {site: site for site in SITES}

_MODE_KEYS = ("mode", "action", "operation", "intervention", "algorithm")
_SWITCHES = ("project", "projection", "ablate", "ablation")  # booleans
_SITE_KEYS = ("site", "component", "hook", "hookpoint", "hook_point")
_FACTS = (
    *("method", "analysis_method", "combination_mode", "top_k", "variance", "token_pos"),
    *("pos_mode", "pos_start", "pos_end", "pos_field", "neg_field", "component_index"),
)
_FACT_PREFIXES = ("source_", "positive_", "negative_", "n_", "num_", "pca_", "sae_", "explained_")
_KNOWN = {f"{ARCHITECTURE}.model_hint", f"{ARCHITECTURE}.layer_count", METADATA}


def stated(keys: Mapping[str, Any], unit_norms: bool) -> tuple[str, dict[str, Any]]:
    """Return the site and the metadata that a file's keys state.

    Args:
        keys: every key of the file, with its value.
        unit_norms: whether all directions have norm 1.

    Raises:
        ValueError: an unknown key, or a mode or site that faststeer does not have.
    """
    site = "resid_post"
    metadata: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for key, value in keys.items():
        space, _, name = key.partition(".")
        if space in ("general", "GGUF") or key in _KNOWN:
            continue  # the GGUF standard's own: names, authors, licences
        if name in _MODE_KEYS:
            metadata["mode"] = _one_of(key, value, MODE_NAMES)
        elif name in _SWITCHES and isinstance(value, bool):
            metadata["mode"] = "project" if value else "add"
        elif name in _SITE_KEYS:
            site = _one_of(key, value, SITE_NAMES)
        elif key == f"{ARCHITECTURE}.easysteer":
            facts["easysteer"] = _easysteer_facts(key, value)
        elif space == ARCHITECTURE and name == "normalize":
            _require_norms(key, value, unit_norms)
        elif space == ARCHITECTURE and (name in _FACTS or name.startswith(_FACT_PREFIXES)):
            _require_no_mode(key, value)
            facts[name] = value
        else:
            raise ValueError(
                f"its key {key!r} (value {_shown(value)}) is not known, and may mean that its "
                "directions are not to be added; if it does not, remove the key: "
                f"gguf-new-metadata --remove-metadata {key} INPUT OUTPUT"
            )
    if "method" in facts:
        metadata["method"] = facts.pop("method")
    return site, metadata | ({"gguf": facts} if facts else {})


def model_hint(metadata: Mapping[str, Any]) -> str:
    """Return repeng's model_type, such as "llama", or else the model's name, or "unknown"."""
    return str(metadata.get("model_type") or metadata.get("model") or "unknown")


def _one_of(key: str, value: Any, meanings: Mapping[str, str]) -> str:
    found = meanings.get(value.lower()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(
            f"its key {key!r} is {_shown(value)}, which faststeer does not have; expected one of "
            f"{', '.join(meanings)}"
        )
    return found


def _easysteer_facts(key: str, value: Any) -> dict[str, Any]:
    try:
        native = json.loads(value)
        version, component = native["version"], native["component"]
    except (TypeError, ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"its key {key!r} is not what EasySteer writes ({error!r})") from error
    if version != 1:
        raise ValueError(f"its key {key!r} has version {_shown(version)}; expected 1")
    if component not in (None, "hidden_states"):
        raise ValueError(
            f"EasySteer's component {_shown(component)} is not the residual stream; expected "
            "'hidden_states'"
        )
    return dict(native)


def _require_norms(key: str, value: Any, unit_norms: bool) -> None:
    """Raise ValueError unless the directions may be used unchanged: False, or all norms are 1."""
    if value is not False and not (value is True and unit_norms):
        raise ValueError(
            f"its key {key!r} is {_shown(value)}, but its directions do not have norm 1: it "
            "is unclear whether they are to be scaled to it; remove the key, or scale them"
        )


def _require_no_mode(key: str, value: Any) -> None:
    if isinstance(value, str) and MODE_NAMES.get(value.lower(), "add") != "add":
        raise ValueError(
            f"its key {key!r} is {value!r}: how the vector was made, or how it is to be used? For "
            f"the latter set {ARCHITECTURE}.mode, otherwise remove the key: gguf-new-metadata"
        )


def _shown(value: Any) -> str:
    return repr(value)[:60]
