"""Instructions to token ids by the tokenizer that was published with a pretrained model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from foundry_bench.errors import FoundryError


class PretrainedTokenizer:
    """Encodes text as ``length`` ids: ``before``, the text's tokens, ``after``, padding.

    Text that is too long loses its end, never ``after``, with a warning for each such text, once. Padding
    has the id 0, which is often a real token: the mask tells them apart.
    """

    def __init__(
        self, text: str, length: int, before: str, after: str, where: str = "tokenizer.json"
    ) -> None:
        """``text``: a ``tokenizer.json``; FoundryError, naming ``where``, when it is none or does not fit."""
        try:
            self.tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise FoundryError(f"{where} is not a tokenizer ({error}); restore the file") from error
        # What a tokenizer.json says of padding was meant for another use: MiniLM's pads all text to 128.
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._text, self.length = text, length
        self.before, self.after = self.ids(before), self.ids(after)
        if len(self.before) + len(self.after) >= length:
            raise FoundryError(
                f"model.text_tokens={length} leaves no room for the instruction: the prompt around it takes "
                f"{len(self.before) + len(self.after)} tokens; use 48"
            )
        self._warned: set[str] = set()

    def ids(self, text: str) -> list[int]:
        """Token ids of a text in which special tokens are written out."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def special(self, token: str, where: str = "tokenizer.json") -> int:
        """The id of a special token; FoundryError where the tokenizer has none of that name."""
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise FoundryError(
                f"{where} has no token {token}, which the model's prompt needs; use the tokenizer.json that "
                "was published with the weights"
            )
        return int(found)

    def to_json(self) -> str:
        """The file it was made from."""
        return self._text

    @property
    def vocab_size(self) -> int:
        """Number of ids, those of special tokens included: the largest and 1."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, length) int64, and a mask of the same shape that is True where there is no padding."""
        ids = np.zeros((len(texts), self.length), dtype=np.int64)
        mask = np.zeros((len(texts), self.length), dtype=np.bool_)
        room = self.length - len(self.before) - len(self.after)
        for row, text in enumerate(texts):
            tokens = self.ids(text)
            if len(tokens) > room and text not in self._warned:
                self._warned.add(text)
                warnings.warn(
                    f"instruction '{text}' has {len(tokens)} tokens and is cut to {room}; "
                    "train with a larger model.text_tokens to keep all of it",
                    stacklevel=2,
                )
            tokens = [*self.before, *tokens[:room], *self.after]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask
