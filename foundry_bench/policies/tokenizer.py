"""Instructions to token ids of a fixed length: a byte-level BPE trained on the instructions themselves."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from foundry_bench.errors import FoundryError

PAD, END = "<pad>", "<end>"


class TextTokenizer:
    """Encodes text as ``length`` ids: the tokens, an end mark, padding.

    Any text can be encoded (bytes are the fallback). Text that is too long loses its end, with a warning
    for each such text, once.
    """

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        self.tokenizer, self.length = tokenizer, length
        pad, end = tokenizer.token_to_id(PAD), tokenizer.token_to_id(END)
        if pad is None or end is None:
            raise FoundryError(
                f"tokenizer has no {PAD} or {END} token; use the tokenizer.json that training wrote"
            )
        self.pad, self.end = pad, end
        self._warned: set[str] = set()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, length: int) -> TextTokenizer:
        """Learn merges from the distinct texts; the same texts give the same tokenizer in any order."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(sorted(set(texts)), trainer)
        return cls(tokenizer, length)

    @classmethod
    def from_json(cls, text: str, length: int, where: str = "tokenizer.json") -> TextTokenizer:
        """Read what ``to_json`` wrote; FoundryError, naming ``where``, when it is no tokenizer."""
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise FoundryError(
                f"{where} is not a tokenizer ({error}); restore the file or train again"
            ) from error
        return cls(tokenizer, length)

    def to_json(self) -> str:
        """The tokenizer in the tokenizers library's own JSON."""
        return self.tokenizer.to_str(pretty=True) + "\n"

    @property
    def vocab_size(self) -> int:
        """Number of distinct ids."""
        return self.tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, length) int64, and a mask of the same shape that is True where there is no padding."""
        ids = np.full((len(texts), self.length), self.pad, dtype=np.int64)
        for row, text in enumerate(texts):
            tokens = self.tokenizer.encode(text, add_special_tokens=False).ids
            if len(tokens) >= self.length and text not in self._warned:
                self._warned.add(text)
                warnings.warn(
                    f"instruction '{text}' has {len(tokens)} tokens and is cut to {self.length - 1}; "
                    "train with a larger model.text_tokens to keep all of it",
                    stacklevel=2,
                )
            tokens = [*tokens[: self.length - 1], self.end]
            ids[row, : len(tokens)] = tokens
        return ids, ids != self.pad
