"""Which text the ``llm`` stage reads: the fields of a ``text`` config. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foundry_bench.data.corpora.spec import CorpusSpec, corpora_from
from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import checked_fields


@dataclass(frozen=True)
class TextConfig:
    """Corpora and tokenizer of text.

    Attributes:
        corpora: what is read, with weights.
        tokenizer: a tokenizer.json, or a folder with one; empty: trained on the corpora, with
            ``model.vocab_size`` tokens at most.
        lowercase: of a tokenizer that is trained here: do not keep case.
        tokenizer_characters: of the corpora that the tokenizer is trained on, in proportion to their weights.
        validation_blocks: of each corpus, for the perplexity of held-out text.
    """

    corpora: tuple[CorpusSpec, ...] = corpora_from({"embedded": 1.0})
    tokenizer: str = ""
    lowercase: bool = False
    tokenizer_characters: int = 4_000_000
    validation_blocks: int = 64

    def __post_init__(self) -> None:
        for key in ("tokenizer_characters", "validation_blocks"):
            if getattr(self, key) < 1:
                raise FoundryError(f"text.{key}={getattr(self, key)} must be at least 1")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextConfig:
        """Build from plain values; ``corpora`` is a mapping as `corpora_from` reads it.

        Raises:
            FoundryError: an unknown key or a value that cannot be.
        """
        values = dict(values)
        corpora = values.pop("corpora", {"embedded": 1.0})
        if not isinstance(corpora, Mapping):
            raise FoundryError(f"text.corpora={corpora!r} must be a mapping of names to weights or fields")
        return cls(corpora=corpora_from(corpora, "text.corpora"), **checked_fields(cls, values, "text"))
