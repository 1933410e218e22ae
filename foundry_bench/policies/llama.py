"""Weights of the Llama family, as transformers saves them, in our language model.

A folder holds ``config.json`` and either ``model.safetensors`` or shards with their
``model.safetensors.index.json``. Read are the architectures whose blocks are ours: Llama (also SmolLM2,
TinyLlama), Mistral without a sliding window, and Qwen3, which normalises queries and keys. What ours does not
have (biases, scaled rotary frequencies, another activation) is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.language import LanguageModel
from foundry_bench.policies.lm_config import LMConfig
from foundry_bench.policies.storage import few, read_text

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_FAMILIES = ("llama", "mistral", "qwen3")
_ADVICE = "restore the folder as it was downloaded"
# What a config may say without it being a difference: values that mean "as our blocks do it".
_PLAIN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (None, 1, 1.0),
}


def load_llama(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[LanguageModel, LMConfig]:
    """Our language model with the weights of a folder.

    Non-obvious behaviour: tensors are copied one at a time into the fused matrices, so that memory holds the
    model once.

    Args:
        folder: of a Llama, Mistral or Qwen3 model for causal language modelling.
        dtype: of the parameters, whatever the file's.

    Returns:
        the model, in evaluation mode, and its config.

    Raises:
        FoundryError: a file is missing or damaged; the config asks for what our blocks do not do; tensors are
            missing, too many or of another shape: they are named.
    """
    config = read_llama_config(folder)
    with torch.device("meta"):
        model = LanguageModel.from_config(config)
    model = model.to(dtype).to_empty(device="cpu")
    targets = _targets(model)
    files = _files(folder)
    with torch.no_grad():
        _check_names(files, targets, folder, config.tied)
        wrong: list[str] = []
        for name, tensor in _tensors(folder, files):
            if name not in targets:  # a tied head that was saved nevertheless
                _check_tied(name, tensor, model, folder)
                continue
            target = targets[name]
            if target.shape != tensor.shape:
                wrong.append(f"{name} is {list(tensor.shape)} where config.json wants {list(target.shape)}")
                continue
            if not tensor.is_floating_point():
                wrong.append(f"{name} is of type {tensor.dtype}, not of floating point")
                continue
            target.copy_(tensor)
        if wrong:
            raise FoundryError(f"{folder} does not fit its {CONFIG}: {few(wrong, '; ')}; {_ADVICE}")
    return model.eval(), config


def read_llama_config(folder: Path) -> LMConfig:
    """The shape that a folder's ``config.json`` describes; FoundryError where it is not one of ours."""
    path = folder / CONFIG
    try:
        values = json.loads(read_text(path))
        if not isinstance(values, dict):
            raise ValueError("it is no mapping")
    except ValueError as error:
        raise FoundryError(f"{path} is damaged ({error}); {_ADVICE}") from error
    family = values.get("model_type")
    if family not in _FAMILIES:
        raise FoundryError(
            f"{path}: model_type={family!r} is not a language model that is read here: "
            f"{nearest(str(family), _FAMILIES)}"
        )
    for key, plain in _PLAIN.items():
        _check_plain(path, key, values.get(key, plain[0]), plain)
    # As transformers reads them: Mistral has a window unless it says otherwise, Qwen3 only where it says so.
    if family != "qwen3" or values.get("use_sliding_window"):
        window = values.get("sliding_window", 4096 if family == "mistral" else None)
        _check_plain(path, "sliding_window", window, (None, 0))
    heads = _whole(values, "num_attention_heads", path)
    width = _whole(values, "hidden_size", path)
    shape: dict[str, Any] = {
        "name": folder.name or "llama",
        "vocab_size": _whole(values, "vocab_size", path),
        "width": width,
        "heads": heads,
        "kv_heads": _whole(values, "num_key_value_heads", path, heads),
        "head_size": _whole(values, "head_dim", path, 128 if family == "qwen3" else width // heads),
        "layers": _whole(values, "num_hidden_layers", path),
        "hidden": _whole(values, "intermediate_size", path),
        "rope_base": _rope_base(values, path),
        "norm_eps": _positive(values.get("rms_norm_eps", 1e-6), "rms_norm_eps", path),
        "qk_norm": family == "qwen3",
        "tied": bool(values.get("tie_word_embeddings", False)),
        "context": _whole(values, "max_position_embeddings", path, 2048),
    }
    try:
        return LMConfig(**shape)
    except FoundryError as error:
        raise FoundryError(f"{path}: {error}") from None


def _check_plain(path: Path, key: str, value: Any, plain: tuple[Any, ...]) -> None:
    if value not in plain:
        raise FoundryError(f"{path}: {key}={value!r} is not supported (only {plain[0]!r}); use another model")


def _whole(values: Mapping[str, Any], key: str, path: Path, default: int | None = None) -> int:
    value = values.get(key)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise FoundryError(f"{path}: {key}={value!r} must be a whole number of at least 1; {_ADVICE}")
    return value


def _rope_base(values: Mapping[str, Any], path: Path) -> float:
    """The base of the frequencies: beside the other keys in older configs, in a mapping in newer ones."""
    scaling = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise FoundryError(f"{path}: rope_parameters={scaling!r} is no mapping; {_ADVICE}")
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise FoundryError(
            f"{path}: rotary frequencies of type '{kind}' are not supported (only 'default'); use another "
            "model"
        )
    if scaling.get("partial_rotary_factor", 1) != 1:
        raise FoundryError(f"{path}: partial_rotary_factor is not supported; use another model")
    base = scaling.get("rope_theta", values.get("rope_theta", 10_000.0))
    return _positive(base, "rope_theta", path)


def _positive(value: Any, key: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise FoundryError(f"{path}: {key}={value!r} must be above 0; {_ADVICE}")
    return float(value)


def _targets(model: LanguageModel) -> dict[str, Tensor]:
    """For each tensor of a file, the part of one of our parameters that it fills."""
    found: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
    }
    if not model.tied:
        found["lm_head.weight"] = model.output.weight
    for number, block in enumerate(model.stack):
        prefix = f"model.layers.{number}."
        sizes = [count * block.size for count in (block.heads, block.kv_heads, block.kv_heads)]
        for name, rows in zip(("q", "k", "v"), block.qkv.weight.detach().split(sizes), strict=True):
            found[f"{prefix}self_attn.{name}_proj.weight"] = rows
        gate, up = block.feed.up.weight.detach().chunk(2)
        found[f"{prefix}self_attn.o_proj.weight"] = block.out.weight
        found[f"{prefix}mlp.gate_proj.weight"] = gate
        found[f"{prefix}mlp.up_proj.weight"] = up
        found[f"{prefix}mlp.down_proj.weight"] = block.feed.down.weight
        found[f"{prefix}input_layernorm.weight"] = block.attention_norm.weight
        found[f"{prefix}post_attention_layernorm.weight"] = block.feed_norm.weight
        if block.qk_norm:
            found[f"{prefix}self_attn.q_norm.weight"] = block.q_norm.weight
            found[f"{prefix}self_attn.k_norm.weight"] = block.k_norm.weight
    return found


def _files(folder: Path) -> dict[str, list[str]]:
    """The tensors of each safetensors file."""
    index = folder / INDEX
    if not index.is_file():
        with _opened(folder / WEIGHTS) as file:
            return {WEIGHTS: list(file.keys())}
    try:
        where = json.loads(read_text(index))["weight_map"]
        pairs = [(str(tensor), str(file)) for tensor, file in where.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FoundryError(f"{index} is damaged ({error!r}); {_ADVICE}") from error
    files: dict[str, list[str]] = {}
    for tensor, file in pairs:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise FoundryError(f"{index}: '{file}' is not a file of this folder; {_ADVICE}")
        files.setdefault(file, []).append(tensor)
    return files


def _check_names(
    files: Mapping[str, list[str]], targets: Mapping[str, Tensor], folder: Path, tied: bool
) -> None:
    found = {name for names in files.values() for name in names}
    missing = sorted(set(targets) - found)
    extra = sorted(name for name in found - set(targets) if not _superfluous(name, tied))
    problems = [
        f"{what} {few(names)}"
        for what, names in (("missing", missing), ("not in the model:", extra))
        if names
    ]
    if problems:
        raise FoundryError(f"{folder} does not fit its {CONFIG}: {'; '.join(problems)}; {_ADVICE}")


def _superfluous(name: str, tied: bool) -> bool:
    """Whether a tensor may be there without being read: computed tables, and a copy of a tied head."""
    return name.endswith("rotary_emb.inv_freq") or (tied and name == "lm_head.weight")


def _check_tied(name: str, tensor: Tensor, model: LanguageModel, folder: Path) -> None:
    table = model.embedding.weight
    if name == "lm_head.weight" and not torch.equal(tensor.to(table.dtype), table):
        raise FoundryError(
            f"{folder / CONFIG} says tie_word_embeddings, but lm_head.weight differs from the embedding; "
            "set tie_word_embeddings to false in it"
        )


def _tensors(folder: Path, files: Mapping[str, list[str]]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, one at a time; a head comes after the embedding it may be tied to."""
    later: list[tuple[str, str]] = []
    for file, names in sorted(files.items()):
        with _opened(folder / file) as opened:
            held = set(opened.keys())
            for name in sorted(names):
                if name not in held:
                    raise FoundryError(f"{folder / file} has no tensor {name}, as {INDEX} says; {_ADVICE}")
                if name == "lm_head.weight":
                    later.append((file, name))
                else:
                    yield name, opened.get_tensor(name)
    for file, name in later:
        with _opened(folder / file) as opened:
            yield name, opened.get_tensor(name)


def _opened(path: Path) -> Any:
    """An open safetensors file, as a context manager."""
    try:
        return safe_open(str(path), framework="pt")
    except OSError as error:
        raise FoundryError(f"cannot read {path} ({error}); {_ADVICE}") from error
    except SafetensorError as error:
        raise FoundryError(f"{path} is truncated or not a safetensors file ({error}); {_ADVICE}") from error
