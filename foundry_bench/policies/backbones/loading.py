"""Opening models in Hugging Face's format, from a folder or a hub, without running anything they bring along.

What a config may do is narrow: it picks one of a few architectures that transformers itself has, and gives
sizes. Code of a repository is never fetched and never run, weights are read from safetensors only, and
kernels or quantisers that a config names are not looked up.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.storage import few, read_text

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", re.ASCII)
_HUB_FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "*.safetensors", "model.safetensors.index.json",
)  # fmt: skip
# Entries of a config that would make transformers run or fetch something else than its own model code.
_REFUSED = {"auto_map": "code of its own", "quantization_config": "quantised weights"}
_IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation\w*")


@dataclass(frozen=True)
class Source:
    """A folder in Hugging Face's format, and what it was called when it was asked for."""

    folder: Path
    name: str

    def where(self, file: str) -> str:
        """How a file is named in messages."""
        return str(self.folder / file)

    def read(self, file: str) -> str:
        """Text of a file; FoundryError when it is missing."""
        if not (self.folder / file).is_file():
            raise FoundryError(
                f"{self.name} has no {file}; give a folder with all files that were published with the model"
            )
        return read_text(self.folder / file)

    def preprocessor(self) -> str:
        """The JSON that says how pixels are scaled, under either of the names it is published with."""
        for file in ("preprocessor_config.json", "processor_config.json"):
            if (self.folder / file).is_file():
                return self.read(file)
        return self.read("preprocessor_config.json")


def open_source(path: str, key: str) -> Source:
    """A folder as it is, or a snapshot of a hub's repository (``owner/name``, or ``owner/name@revision``).

    Raises:
        FoundryError: naming ``key``, when it is neither, or the hub cannot be reached.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        source = Source(folder, path)
    elif _HUB_ID.fullmatch(path):
        source = Source(_snapshot(path, key), path)
    else:
        raise FoundryError(f"{key}={path} is neither a folder nor a hub id such as owner/name")
    if (source.folder / "adapter_config.json").exists():
        raise FoundryError(
            f"{key}={path} holds an adapter, not a model; merge it into its base model and save that"
        )
    return source


def _snapshot(path: str, key: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = path.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # of the hub's client, its HTTP library or the disk: all mean the same here
        reason = " ".join(str(error).split())[:200]
        raise FoundryError(
            f"{key}={path} is no folder here and could not be fetched from the hub ({reason}); "
            "download it elsewhere and give the folder"
        ) from error


def read_config(text: str, where: str, model_types: Collection[str]) -> Any:
    """A transformers configuration from the text of a ``config.json``.

    Raises:
        FoundryError: it is no JSON, of an architecture that is not in ``model_types``, asks for code or
            quantised weights, or holds a value that transformers refuses.
    """
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise FoundryError(f"{where} is not JSON ({error}); restore the file") from error
    if not isinstance(entries, dict):
        raise FoundryError(f"{where} is not the configuration of a model; restore the file")
    for part in _dicts(entries):
        for key, what in _REFUSED.items():
            if part.get(key):
                raise FoundryError(
                    f"{where} asks for {what} ({key}), which is never loaded; use a model that needs none"
                )
        for key in [key for key in part if _IMPLEMENTATION.fullmatch(key)]:
            del part[key]
    kind = str(entries.get("model_type"))
    if kind not in model_types:
        raise FoundryError(f"{where}: model_type={kind} is not supported here; {nearest(kind, model_types)}")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[kind].from_dict(entries)
    except Exception as error:  # the library validates with several kinds of exceptions
        reason = " ".join(str(error).split())[:200]
        raise FoundryError(f"{where} is not a usable {kind} configuration: {reason}") from error


def load_pretrained(
    auto_class: Any, config: Any, source: Source, dtype: str = "float32", whole: bool = True
) -> Any:
    """A model with the source's weights; weights that it has no place for are named in a warning.

    Args:
        auto_class: one of transformers' ``AutoModel`` classes.
        dtype: of the weights in memory, by the name that torch has for it.
        whole: false where a part of the model is wanted: of the other parts' weights nothing is said.

    Raises:
        FoundryError: weights are missing, not safetensors, damaged or of another shape.
    """
    import torch

    try:
        with _quiet():
            model, info = auto_class.from_pretrained(
                source.folder,
                config=config,
                dtype=getattr(torch, dtype),
                attn_implementation=attention(config),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:  # OSError, ValueError, RuntimeError, SafetensorError ... by version
        reason = " ".join(str(error).split())[:200]
        raise FoundryError(
            f"the weights of {source.name} cannot be loaded: {reason}; it needs model.safetensors (or its "
            "parts and index) that fit config.json"
        ) from error
    absent = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if absent:
        raise FoundryError(
            f"the weights of {source.name} do not fit its config.json: missing or of another shape are "
            f"{few(absent)}"
        )
    unread = sorted(map(str, info["unexpected_keys"]))
    if whole and unread:
        warnings.warn(
            f"the weights of {source.name} have more than its config.json asks for, which is left out: "
            f"{few(unread)}; give the config.json that was published with them",
            stacklevel=2,
        )
    return model


def build_untrained(auto_class: Any, config: Any, dtype: str = "float32") -> Any:
    """A model of the same shape with weights that the caller is about to replace."""
    import torch

    return auto_class.from_config(
        config, dtype=getattr(torch, dtype), attn_implementation=attention(config), trust_remote_code=False
    )


def attention(config: Any) -> str:
    """The attention that a model is run with: torch's own, but for one that squashes its logits."""
    return "eager" if config.get_text_config().model_type == "gemma2" else "sdpa"


@contextmanager
def _quiet() -> Iterator[None]:
    """No table of the text tower's weights where the vision tower alone is loaded: what lacks is checked."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _dicts(item)
