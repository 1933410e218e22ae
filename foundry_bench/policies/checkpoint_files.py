"""What checkpoint folders of every stage have in common: file names, sections of config.yaml, hash, card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from foundry_bench.errors import FoundryError, nearest
from foundry_bench.policies.storage import read_text

CONFIG, WEIGHTS, TOKENIZER, CARD = "config.yaml", "model.safetensors", "tokenizer.json", "README.md"
SECTIONS = ("model", "train", "data", "versions")


def read_sections(folder: Path, stage: str = "vla", known: Iterable[str] = SECTIONS) -> dict[str, Any]:
    """The sections of ``config.yaml``, ``model`` among them, without the key ``stage``.

    Raises:
        FoundryError: the file is missing or no YAML, it has no ``model``, a section is unknown, or the folder
            is of another stage (where none is written, it is ``vla``).
    """
    path = folder / CONFIG
    try:
        sections = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise FoundryError(f"{path} is not YAML; restore the folder or train again") from error
    if not isinstance(sections, dict) or not isinstance(sections.get("model"), dict):
        raise FoundryError(f"{path} has no 'model' section; restore the folder or train again")
    found = sections.pop("stage", "vla")
    if found != stage:
        raise FoundryError(
            f"{folder} holds a checkpoint of the stage '{found}' where one of the stage '{stage}' is needed; "
            "give another folder"
        )
    for key in sections:
        if key not in known:
            raise FoundryError(f"{path}: '{key}' is not a known section: {nearest(str(key), known)}")
    return sections


def check_vocabulary(where: Path | str, tokens: int, vocab_size: int) -> None:
    """FoundryError where the tokenizer of the file ``where`` has more tokens than the model."""
    if tokens > vocab_size:
        raise FoundryError(
            f"{where} has {tokens} tokens, more than model.vocab_size={vocab_size} in "
            f"{CONFIG}; restore the tokenizer that was saved with these weights"
        )


def folder_hash(folder: Path, names: Iterable[str]) -> str:
    """12 hex digits over the named files."""
    digest = hashlib.sha256()
    for name in names:
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise FoundryError(
                f"cannot read {folder / name}: {error.strerror}; restore the folder or train again"
            ) from error
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def card(
    title: str,
    tags: Sequence[str],
    about: Sequence[str],
    rows: Iterable[tuple[str, str]],
    code: Sequence[str],
) -> str:
    """README.md of a checkpoint: front matter, what it is, a table of facts, how to use it."""
    lines = [
        "---",
        "library_name: foundry-bench",
        f"tags: [{', '.join(tags)}]",
        "---",
        f"# {title}",
        "",
        *about,
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in rows),
        "",
        "```python",
        *code,
        "```",
        "",
    ]
    return "\n".join(lines)
