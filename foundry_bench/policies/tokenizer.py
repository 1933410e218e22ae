"""Text to token ids and back: byte-level BPE trained here, or any tokenizer.json of the tokenizers library.

Policies encode an instruction as a fixed number of ids (`TextTokenizer.encode`); language models encode text
of any length without padding (`TextTokenizer.encode_text`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from foundry_bench.errors import FoundryError, nearest

PAD, END = "<pad>", "<end>"
#: How others call these tokens, in the order in which they are looked for.
_PADS = (PAD, "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>")
_ENDS = (END, "</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<eos>", "[SEP]")


class TextTokenizer:
    """Encodes text as ``length`` ids: the tokens, an end mark, padding.

    Any text can be encoded (bytes are the fallback). Text that is too long loses its end, with a warning
    for each such text, once.

    Args:
        tokenizer: of the tokenizers library.
        length: ids of an encoded instruction.
        pad, end: the tokens for padding and for the end of a text. None: found by their usual names; where
            another library's tokenizer has no padding token, its end token serves.

    Raises:
        FoundryError: a token is not in the vocabulary, or none of the usual names is.
    """

    def __init__(
        self, tokenizer: Tokenizer, length: int, pad: str | None = None, end: str | None = None
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.length = tokenizer, length
        self.end = _token_id(tokenizer, end, _ENDS, "end")
        self.pad = _token_id(tokenizer, pad, _PADS, "pad", None if _is_ours(tokenizer) else self.end)
        self._warned: set[str] = set()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, length: int) -> TextTokenizer:
        """Learn merges from distinct instructions; the same texts give the same tokenizer in any order.

        Case is not kept: "Open the DRAWER" is "open the drawer".
        """
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train_from_iterator(sorted(set(texts)), _trainer(vocab_size, ()))
        return cls(tokenizer, length)

    @classmethod
    def train_on_text(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        length: int,
        lowercase: bool = False,
        specials: Sequence[str] = (),
    ) -> TextTokenizer:
        """Learn merges from running text, which is read once and never held in memory as a whole.

        Unless ``lowercase``, decoding gives back the very text that was encoded.

        Args:
            texts: documents.
            vocab_size: tokens at most, the 256 bytes and the special tokens included; a small corpus has
                fewer merges to offer.
            length: ids of an encoded instruction.
            lowercase: do not keep case (nor compatibility characters).
            specials: further tokens that are never split, beside those for padding and end.

        Raises:
            FoundryError: ``vocab_size`` does not even hold the bytes and the special tokens.
        """
        least = 256 + 2 + len(specials)
        if vocab_size < least:
            raise FoundryError(
                f"a vocabulary of {vocab_size} does not hold the 256 bytes and the special tokens; "
                f"use model.vocab_size={least} or more"
            )
        tokenizer = Tokenizer(models.BPE())
        if lowercase:
            tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.train_from_iterator(iter(texts), _trainer(vocab_size, specials))
        return cls(tokenizer, length)

    @classmethod
    def from_json(
        cls,
        text: str,
        length: int,
        where: str = "tokenizer.json",
        pad: str | None = None,
        end: str | None = None,
    ) -> TextTokenizer:
        """Read a tokenizer.json; FoundryError, naming ``where``, when it is no tokenizer.

        Args:
            text: the file's content: what ``to_json`` wrote, or another library's.
            length: ids of an encoded instruction.
            where: names the file in messages.
            pad, end: as for the class.
        """
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise FoundryError(
                f"{where} is not a tokenizer ({error}); restore the file or train again"
            ) from error
        try:
            return cls(tokenizer, length, pad, end)
        except FoundryError as error:
            raise FoundryError(f"{where}: {error}") from None

    @classmethod
    def from_folder(
        cls, folder: Path, length: int, pad: str | None = None, end: str | None = None
    ) -> TextTokenizer:
        """Read ``tokenizer.json`` of a folder as transformers writes it.

        Where ``pad`` or ``end`` is not given, ``tokenizer_config.json`` is asked for it first.
        """
        path = folder / "tokenizer.json"
        named = _named_tokens(folder / "tokenizer_config.json")
        return cls.from_json(
            _read(path), length, str(path), pad or named.get("pad_token"), end or named.get("eos_token")
        )

    def to_json(self) -> str:
        """The tokenizer in the tokenizers library's own JSON."""
        return self.tokenizer.to_str(pretty=True) + "\n"

    @property
    def vocab_size(self) -> int:
        """Number of ids: the largest and 1."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def token(self, number: int) -> str:
        """The token of an id; empty where there is none."""
        return self.tokenizer.id_to_token(number) or ""

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, length) int64, and a mask of the same shape that is True where there is no padding."""
        ids = np.full((len(texts), self.length), self.pad, dtype=np.int64)
        mask = np.zeros(ids.shape, dtype=bool)
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
            mask[row, : len(tokens)] = True
        return ids, mask

    def encode_text(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text of any length, without end mark and padding.

        ``special`` adds what the tokenizer itself adds to a text, such as a first token of Llama's.
        """
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode_text`` of each text, on all cores."""
        return [each.ids for each in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """Text of ids; special tokens (padding, end) are left out unless ``keep_special``."""
        return self.tokenizer.decode([int(number) for number in ids], skip_special_tokens=not keep_special)


def limited(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The first texts, until they have so many characters; the last one is cut."""
    left = characters
    for text in texts:
        if left <= 0:
            return
        yield text[:left]
        left -= len(text)


def _trainer(vocab_size: int, specials: Sequence[str]) -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, *specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )


def _is_ours(tokenizer: Tokenizer) -> bool:
    """By the end token: others too have one that is called ``<pad>``."""
    return tokenizer.token_to_id(END) is not None


def _token_id(
    tokenizer: Tokenizer, given: str | None, known: Sequence[str], use: str, otherwise: int | None = None
) -> int:
    """The id of the token that is given or known; FoundryError where there is none."""
    if given:
        number = tokenizer.token_to_id(given)
        if number is None:
            raise FoundryError(
                f"the tokenizer has no token '{given}' for {use}: "
                f"{nearest(given, _special_tokens(tokenizer) or known)}"
            )
        return number
    if _is_ours(tokenizer):
        known = known[:1]
    for name in known:
        number = tokenizer.token_to_id(name)
        if number is not None:
            return number
    if otherwise is not None:
        return otherwise
    raise FoundryError(
        f"tokenizer has no {PAD} or {END} token, nor another usual one for {use}; use the tokenizer.json "
        f"that training wrote, or name the token (model.{use}_token)"
    )


def _special_tokens(tokenizer: Tokenizer) -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values()]


def _named_tokens(path: Path) -> dict[str, str]:
    """Special tokens by their use, from a tokenizer_config.json; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(_read(path))
        if not isinstance(content, dict):
            raise ValueError("it is no mapping")
    except ValueError as error:
        raise FoundryError(f"{path} is damaged ({error}); restore it or delete it") from error
    return {use: name for use in ("pad_token", "eos_token") if (name := _content(content.get(use)))}


def _content(token: Any) -> str:
    """A token's text: it is written plainly, or as a mapping that has it as ``content``."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FoundryError(f"cannot read {path} ({error}); restore the folder") from error
