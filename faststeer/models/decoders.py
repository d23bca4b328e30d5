"""Find the decoder inside a model, its family and its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from faststeer.models.families import family_of, known_families
from faststeer.models.family import Family


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the decoder layers of a model that `patch` accepts. Raises as `patch`."""
    found = find_known(model)
    if found is None:
        decoder, blocks = find_blocks(model)
        return blocks.of(decoder)
    return family_layers(*found)


def family_layers(decoder: nn.Module, family: Family) -> list[nn.Module]:
    """Return the layers that a decoder of a known family has now."""
    layers: Any = decoder._modules[family.layers]
    return list(layers)


def require_distinct(decoder: nn.Module, layers: list[nn.Module]) -> None:
    """Raise ValueError where one module is several layers."""
    if len(set(layers)) < len(layers):
        raise ValueError(
            f"a {type(decoder).__name__} uses one block as several layers, which cannot be steered "
            "one by one"
        )


# What configurations call the number of blocks; those of encoder-decoders have one for each.
_COUNTS = ("num_hidden_layers", "encoder_layers", "decoder_layers")


def find_decoder(model: nn.Module) -> tuple[nn.Module, Family]:
    """Return the decoder inside `model` and its family. Raises as `find_known`, and without one."""
    found = find_known(model)
    if found is None:
        raise ValueError(f"{type(model).__name__} holds no decoder of a known family: {known()}")
    return found


def find_known(model: nn.Module) -> tuple[nn.Module, Family] | None:
    """Return the decoder of a known family inside `model`, None without one.

    Raises:
        TypeError: not a module.
        ValueError: more than one.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"patch() got a {type(model).__name__}; expected a transformers model")
    found = [(m, family) for m in model.modules() if (family := family_of(m)) is not None]
    if len(found) > 1:
        names = ", ".join(type(decoder).__name__ for decoder, _ in found)
        raise ValueError(
            f"{type(model).__name__} holds {len(found)} decoders ({names}); patch the one you mean"
        )
    return found[0] if found else None


@dataclass(frozen=True)
class Blocks:
    """The layers of a decoder of no known family: those of the ModuleList at `path` in it."""

    path: str

    def of(self, decoder: nn.Module) -> list[nn.Module]:
        """Return the layers that `decoder` has now."""
        blocks: Any = decoder.get_submodule(self.path)
        return list(blocks)  # not its children(), which leave repeated ones out


def find_blocks(model: nn.Module) -> tuple[nn.Module, Blocks]:
    """Find a decoder of no known family, and its layers.

    Its layers are a ModuleList of as many blocks as the configuration says. The decoder is the
    innermost transformers model around them.

    Raises:
        ValueError: no such list, or several.
    """
    from transformers import PreTrainedModel

    found: dict[nn.ModuleList, tuple[PreTrainedModel, str, str]] = {}
    for name, owner in model.named_modules():
        if isinstance(owner, PreTrainedModel):
            counts = {getattr(owner.config, count, None) for count in _COUNTS}
            for path, blocks in _lists_of_blocks(owner, counts):
                found[blocks] = owner, path, f"{name}.{path}" if name else path  # inner ones last
    if len(found) > 1:
        found = _of_the_text(model, found)
    if len(found) == 1:
        [(owner, path, _)] = found.values()
        return owner, Blocks(path)
    if found:
        paths = ", ".join(path for _, _, path in found.values())
        raise ValueError(
            f"{type(model).__name__} holds several lists of layers ({paths}); patch the module "
            "around those you mean"
        )
    raise ValueError(
        f"{type(model).__name__} holds no decoder that can be patched: none of {known()}, and no "
        "transformers model with a list of config.num_hidden_layers blocks"
    )


def known() -> str:
    """Return the decoder classes of known families, as text."""
    return ", ".join(known_families())


def model_name(module: nn.Module) -> str | None:
    """Return the name in the model's configuration, None without one."""
    return getattr(getattr(module, "config", None), "_name_or_path", None) or None


def _lists_of_blocks(
    module: nn.Module, counts: set[Any], prefix: str = ""
) -> list[tuple[str, nn.ModuleList]]:
    """Return the outermost lists of a length in `counts` whose modules have parts.

    Experts lie in blocks. A list may mix kinds of block, as Jamba's of attention and Mamba does.
    """
    found = []
    for name, child in module.named_children():
        path = prefix + name
        if isinstance(child, nn.ModuleList) and len(child) in counts and _have_parts(child):
            found.append((path, child))
        elif not (isinstance(child, nn.ModuleList) and len({type(block) for block in child}) == 1):
            found += _lists_of_blocks(child, counts, f"{path}.")
    return found


def _have_parts(blocks: nn.ModuleList) -> bool:
    return all(any(True for _ in block.children()) for block in blocks)


def _of_the_text(
    model: nn.Module, found: dict[nn.ModuleList, tuple[Any, str, str]]
) -> dict[nn.ModuleList, tuple[Any, str, str]]:
    """Return the lists of the text model, where the outermost configuration contains one."""
    from transformers import PreTrainedModel

    outer = next(m for m in model.modules() if isinstance(m, PreTrainedModel))
    text = outer.config.get_text_config(decoder=True)
    kept = {blocks: at for blocks, at in found.items() if type(at[0].config) is type(text)}
    return kept or found
