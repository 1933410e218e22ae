"""The model and the tokenizer that a config describes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.policies.vla import VLA

TOKENIZER = "tokenizer.json"
#: Every name that ``asset_names`` may give.
ASSETS = (
    "backbone_config.json", "backbone_preprocessor.json", "vision_config.json", "vision_preprocessor.json",
)  # fmt: skip


class InstructionTokenizer(Protocol):
    """Instructions to token ids of a fixed length."""

    @property
    def vocab_size(self) -> int:
        """Number of distinct ids."""
        ...

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, length) int64, and a mask of the same shape that is True where there is no padding."""
        ...

    def to_json(self) -> str:
        """The tokenizer in the tokenizers library's own JSON."""
        ...


def make_model(config: VLAConfig, assets: Mapping[str, str] | None = None) -> VLA:
    """The model of a config; chance is torch's global one.

    Args:
        assets: small text files of a checkpoint by name (``asset_names``, and tokenizer.json). Where given,
            no folder, package or hub is looked at, and the weights are for the caller to load; where None,
            pretrained parts come with their weights.

    Raises:
        FoundryError: a pretrained part is not there, is damaged, or does not go with the config.
    """
    if config.backbone != "own":
        from foundry_bench.policies.backbones.huggingface import BackboneVLA

        return BackboneVLA(config, assets)
    if config.vision != "stem" or config.text != "own":
        from foundry_bench.policies.encoder_vla import EncoderVLA

        return EncoderVLA(config, assets)
    return VLA(config, assets)


def asset_names(config: VLAConfig) -> tuple[str, ...]:
    """Small files beside the tokenizer that a checkpoint of this config must hold."""
    found: list[str] = []
    if config.backbone != "own":
        from foundry_bench.policies.backbones.huggingface import names

        found += [name for name in names(config) if name != TOKENIZER]
    if config.vision == "pretrained":
        from foundry_bench.policies.vision_encoders import pretrained

        found += [pretrained.CONFIG, pretrained.PIXELS]
    return tuple(found)


def make_tokenizer(config: VLAConfig, instructions: Iterable[str]) -> InstructionTokenizer:
    """The tokenizer of a new run: a pretrained part's own, or one trained on the instructions."""
    if config.backbone != "own":
        from foundry_bench.policies.backbones import huggingface
        from foundry_bench.policies.backbones.loading import open_source

        source = open_source(config.backbone_path, "model.backbone_path")
        kind = huggingface.backbone_config(source.read("config.json"), config, source).model_type
        return huggingface.backbone_tokenizer(source.read(TOKENIZER), config, kind)
    if config.text == "minilm":
        from foundry_bench.policies.minilm import minilm_tokenizer

        return minilm_tokenizer(config.text_tokens)
    return TextTokenizer.train(instructions, config.vocab_size, config.text_tokens)


def read_tokenizer(
    config: VLAConfig, assets: Mapping[str, str], where: str = TOKENIZER
) -> InstructionTokenizer:
    """The tokenizer that was saved with a checkpoint or a run.

    Raises:
        FoundryError: naming ``where``, when the file is none, or knows more tokens than the model.
    """
    text = assets[TOKENIZER]
    if config.backbone != "own":
        from foundry_bench.policies.backbones import huggingface

        kind = huggingface.backbone_config(assets[huggingface.CONFIG], config, None).model_type
        return huggingface.backbone_tokenizer(text, config, kind)
    if config.text == "minilm":
        from foundry_bench.policies.minilm import minilm_tokenizer

        return minilm_tokenizer(config.text_tokens, text)
    tokenizer = TextTokenizer.from_json(text, config.text_tokens, where)
    if tokenizer.vocab_size > config.vocab_size:
        raise FoundryError(
            f"{where} has {tokenizer.vocab_size} tokens, more than model.vocab_size="
            f"{config.vocab_size} in config.yaml; restore the tokenizer that was saved with these weights"
        )
    return tokenizer
