"""A language model with its tokenizer, and its checkpoint folder: what the ``llm`` stage writes.

The folder has config.yaml (``stage: llm`` and ``model``), model.safetensors, tokenizer.json and README.md.
Tensors are called ``language.*``, as in a VLA, so that a VLA of the same shape takes them by name.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

import foundry_bench
from foundry_bench.errors import FoundryError
from foundry_bench.policies.checkpoint_files import (
    CARD,
    CONFIG,
    TOKENIZER,
    WEIGHTS,
    card,
    check_vocabulary,
    read_sections,
)
from foundry_bench.policies.generate import generate
from foundry_bench.policies.language import LanguageModel
from foundry_bench.policies.llama import load_llama
from foundry_bench.policies.lm_config import LMConfig
from foundry_bench.policies.storage import (
    check_tensors,
    read_tensors,
    read_text,
    tensors_to_bytes,
    write_folder,
)
from foundry_bench.policies.tokenizer import TextTokenizer

STAGE = "llm"


class TextModel(nn.Module):
    """What the ``llm`` stage trains: a language model under the name that it has in a VLA."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        self.language = LanguageModel.from_config(config)


@dataclass(frozen=True)
class LanguageCheckpoint:
    """Everything a folder holds, in memory.

    Attributes:
        config: shape of the model.
        model: the model with its weights, in evaluation mode.
        tokenizer: the one it was trained with.
        about: plain sections beside "model": train, data, versions.
    """

    config: LMConfig
    model: TextModel
    tokenizer: TextTokenizer
    about: Mapping[str, Any] = field(default_factory=dict)

    def complete(
        self, prompts: Sequence[str], max_tokens: int = 64, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """Continue each text; see `generate`. An empty prompt starts a text of its own."""
        end = self.tokenizer.end
        tokens = [self.tokenizer.encode_text(prompt) or [end] for prompt in prompts]
        continued = generate(
            self.model.language,
            tokens,
            max_tokens=max_tokens,
            end=end,
            temperature=temperature,
            seeds=[seed + row for row in range(len(prompts))],
        )
        return [self.tokenizer.decode(each) for each in continued]


def save_language_model(
    folder: Path,
    config: LMConfig,
    weights: Mapping[str, Tensor],
    tokenizer: TextTokenizer,
    about: Mapping[str, Any],
) -> None:
    """Write the folder, replacing an older one only when this one is complete.

    Args:
        folder: the checkpoint folder.
        config: shape of the model.
        weights: the state of a `TextModel`.
        tokenizer: written as tokenizer.json.
        about: plain sections: train, data; the versions are added.
    """
    versions = {
        "foundry_bench": foundry_bench.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
    sections = {"stage": STAGE, "model": config.to_dict(), **about, "versions": versions}
    write_folder(
        folder,
        {
            CONFIG: yaml.safe_dump(sections, sort_keys=False).encode(),
            WEIGHTS: tensors_to_bytes(weights),
            TOKENIZER: tokenizer.to_json().encode(),
            CARD: _model_card(config, weights, tokenizer, about).encode(),
        },
    )


def load_language_model(folder: Path, device: str = "cpu") -> LanguageCheckpoint:
    """Read what the ``llm`` stage wrote.

    Raises:
        FoundryError: naming what is missing, damaged, unknown, of another shape or of another stage.
    """
    folder = Path(folder)
    sections = read_sections(folder, STAGE)
    try:
        config = LMConfig.from_dict(sections.pop("model"))
    except (FoundryError, TypeError) as error:
        raise FoundryError(f"{folder / CONFIG}: {error}") from error
    weights = read_tensors(folder / WEIGHTS)
    with torch.device("meta"):
        model = TextModel(config)
    check_tensors(weights, model.state_dict(), str(folder / WEIGHTS))
    model = model.to_empty(device="cpu")
    model.load_state_dict(weights)
    tokenizer = TextTokenizer.from_json(
        read_text(folder / TOKENIZER), config.context, str(folder / TOKENIZER),
        config.pad_token or None, config.end_token or None,
    )  # fmt: skip
    check_vocabulary(folder / TOKENIZER, tokenizer.vocab_size, config.vocab_size)
    return LanguageCheckpoint(config, model.eval().to(device), tokenizer, sections)


def import_llama(source: Path, folder: Path) -> Path:
    """Write a Llama-family folder (see `llama`) as a checkpoint of the ``llm`` stage, to start others from.

    Args:
        source: has config.json, the weights and tokenizer.json.
        folder: the checkpoint folder.

    Raises:
        FoundryError: what `load_llama` and `TextTokenizer.from_folder` raise; a tokenizer with more tokens
            than the model; ``folder`` is there and is no checkpoint (``source`` itself, say).
    """
    if folder.exists() and not (folder / CONFIG).is_file():
        raise FoundryError(f"{folder} exists and is no checkpoint, it would be lost; give another folder")
    language, config = load_llama(source)
    tokenizer = TextTokenizer.from_folder(source, config.context)
    check_vocabulary(source / TOKENIZER, tokenizer.vocab_size, config.vocab_size)
    config = replace(
        config, pad_token=tokenizer.token(tokenizer.pad), end_token=tokenizer.token(tokenizer.end)
    )
    weights = {f"language.{name}": tensor for name, tensor in language.state_dict().items()}
    save_language_model(
        folder, config, weights, tokenizer, {"data": {"corpora": [], "imported": source.name}}
    )
    return folder


def _model_card(
    config: LMConfig, weights: Mapping[str, Tensor], tokenizer: TextTokenizer, about: Mapping[str, Any]
) -> str:
    data, train = about.get("data", {}), about.get("train", {})
    count = sum(tensor.numel() for tensor in weights.values())
    heads = f"{config.heads} query heads, {config.key_heads} of keys and values, {config.size_of_head} wide"
    rows = [
        ("parameters", f"{count / 1e6:.2f} M"),
        ("shape", f"{config.layers} layers, width {config.width}, feed-forward {config.hidden}"),
        ("attention", heads + (", queries and keys normalised" if config.qk_norm else "")),
        ("vocabulary", f"{tokenizer.vocab_size} tokens of {config.vocab_size}"),
        ("context", f"{config.context} tokens"),
        ("trained on", ", ".join(map(str, data.get("corpora", ()))) or "?"),
        ("training blocks", str(train.get("samples", "?"))),
    ]
    if "imported" in data:
        about_it = (
            f"The language model {data['imported']} in the format of foundry-bench, weights as they were.",
            "The licence of the original holds for it.",
        )
    else:
        about_it = (
            "A decoder-only language model trained by foundry-bench, to start vision-language and",
            "vision-language-action models from. It continues text; it follows no instructions.",
        )
    code = (
        "from pathlib import Path",
        "from foundry_bench.policies.language_checkpoint import load_language_model",
        'checkpoint = load_language_model(Path("path/to/this/folder"))',
        'print(checkpoint.complete(["Pick up the"], max_tokens=20))',
    )
    return card(config.name, ("text-generation", "robotics"), about_it, rows, code)
