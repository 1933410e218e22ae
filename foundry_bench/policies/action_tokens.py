"""Action chunks as discrete tokens, and back: what a language-model-like head predicts.

Shapes: B batch, K horizon, A action dimension, L tokens of the longest sequence.

Both tokenizers first clip every dimension to a range fitted on the training actions (see ``fit_range``), and
whatever tokens a model comes up with decode to a chunk within that range.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, trainers

from foundry_bench.errors import FoundryError
from foundry_bench.policies.config import VLAConfig

Floats = npt.NDArray[np.float32]
#: Where the symbols of quantised coefficients begin in Unicode: a long run of plain letters (CJK ideographs).
_FIRST_SYMBOL, _SYMBOLS = 0x4E00, 20_000
_END = "<end>"
_TAIL = 0.005  # of the training actions that may be clipped, on each side
FIT_CHUNKS = 20_000  # more chunks than this hardly change the merges


class ActionTokenizer(Protocol):
    """Normalised chunks to token ids and back."""

    @property
    def kind(self) -> str:
        """The word of ``model.action_tokenizer``."""
        ...

    @property
    def horizon(self) -> int:
        """K."""
        ...

    @property
    def action_dim(self) -> int:
        """A."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of distinct ids."""
        ...

    @property
    def max_tokens(self) -> int:
        """Length L of the longest sequence, its end mark included."""
        ...

    @property
    def end(self) -> int | None:
        """The id that ends a sequence; None where all have the same length."""
        ...

    def encode(
        self, chunks_BKA: Floats, mask_BK: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Ids (B, L), and which of them are to be learned.

        Args:
            chunks_BKA: normalised actions.
            mask_BK: which actions are real; the first of a chunk always is.
        """
        ...

    def decode(self, tokens_BL: npt.NDArray[np.int64]) -> Floats:
        """Chunks (B, K, A) within the fitted range, from any ids whatever."""
        ...

    def to_json(self) -> str:
        """Text that ``read_action_tokenizer`` reads back."""
        ...


def fit_range(values_NA: Floats) -> tuple[Floats, Floats]:
    """Lowest and highest value of each dimension, but for the outermost half per cent on either side.

    A dimension whose quantiles nearly coincide although it moves (a gripper that is hardly ever closed) keeps
    its whole range, and one that does not move gets a range of width 1e-3 about its value.
    """
    low, high = np.quantile(values_NA.astype(np.float64), [_TAIL, 1 - _TAIL], axis=0)
    least, most = values_NA.min(axis=0), values_NA.max(axis=0)
    narrow = high - low < 0.01 * (most - least)
    low, high = np.where(narrow, least, low), np.where(narrow, most, high)
    still = high - low < 1e-3
    middle = (low + high) / 2
    low, high = np.where(still, middle - 5e-4, low), np.where(still, middle + 5e-4, high)
    return low.astype(np.float32), high.astype(np.float32)


@dataclass(frozen=True, eq=False)
class BinTokenizer:
    """One token a number: each dimension's range is cut into equal bins, and a bin stands for its middle.

    A sequence is the chunk's numbers, action after action: K * A tokens, always.
    """

    low: Floats  # (A,)
    high: Floats  # (A,)
    horizon: int
    bins: int
    kind = "bins"

    @property
    def action_dim(self) -> int:
        """See ActionTokenizer."""
        return len(self.low)

    @property
    def vocab_size(self) -> int:
        """See ActionTokenizer."""
        return self.bins

    @property
    def max_tokens(self) -> int:
        """See ActionTokenizer."""
        return self.horizon * self.action_dim

    @property
    def end(self) -> int | None:
        """See ActionTokenizer: every sequence has the same length."""
        return None

    def encode(
        self, chunks_BKA: Floats, mask_BK: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """See ActionTokenizer; the tokens of actions that are not real are not to be learned."""
        share = (chunks_BKA - self.low) / (self.high - self.low)
        tokens = np.clip(np.floor(share * self.bins), 0, self.bins - 1).astype(np.int64)
        return tokens.reshape(len(tokens), -1), np.repeat(mask_BK, self.action_dim, axis=1)

    def decode(self, tokens_BL: npt.NDArray[np.int64]) -> Floats:
        """See ActionTokenizer; an id beyond the bins counts as the nearest, a missing one as the middle."""
        tokens = np.full((len(tokens_BL), self.max_tokens), self.bins // 2)
        given = tokens_BL[:, : self.max_tokens]
        tokens[:, : given.shape[1]] = np.clip(given, 0, self.bins - 1)
        share = (tokens.reshape(-1, self.horizon, self.action_dim) + 0.5) / self.bins
        return (self.low + share * (self.high - self.low)).astype(np.float32)

    def to_json(self) -> str:
        """See ActionTokenizer."""
        return _dump(self, {"bins": self.bins})


@dataclass(frozen=True, eq=False)
class DCTTokenizer:
    """The chunk's cosine transform along time, rounded, and merged to tokens by byte-pair encoding.

    The idea is that of FAST (Pertsch et al., arXiv 2501.09747): smooth chunks have few large coefficients,
    so they become short sequences whose tokens say different things. Coefficients are written low
    frequencies first, all dimensions of a frequency together; each integer is one symbol, and BPE merges
    symbols that often follow each other.
    """

    low: Floats  # (A,)
    high: Floats  # (A,)
    horizon: int
    scale: float  # a coefficient is rounded to a multiple of 1 / scale
    limit: int  # quantised coefficients are within [-limit, limit]
    bpe: Tokenizer
    kind = "dct"

    @property
    def action_dim(self) -> int:
        """See ActionTokenizer."""
        return len(self.low)

    @property
    def vocab_size(self) -> int:
        """See ActionTokenizer."""
        return self.bpe.get_vocab_size()

    @property
    def max_tokens(self) -> int:
        """See ActionTokenizer: every coefficient a token of its own, and the end mark."""
        return self.horizon * self.action_dim + 1

    @property
    def end(self) -> int | None:
        """See ActionTokenizer."""
        return self._pieces.index(_END)

    @cached_property
    def _pieces(self) -> list[str]:
        """The symbols that each id stands for."""
        return [self.bpe.id_to_token(number) or "" for number in range(self.vocab_size)]

    def encode(
        self, chunks_BKA: Floats, mask_BK: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """See ActionTokenizer; an action that is not real counts as the last real one before it."""
        texts = self.symbols(hold_last(chunks_BKA, mask_BK))
        encoded = self.bpe.encode_batch(texts, add_special_tokens=False)
        tokens = np.full((len(texts), self.max_tokens), self.end, dtype=np.int64)
        mask = np.zeros(tokens.shape, dtype=bool)
        for row, each in enumerate(encoded):
            tokens[row, : len(each.ids)] = each.ids
            mask[row, : len(each.ids) + 1] = True
        return tokens, mask

    def symbols(self, chunks_BKA: Floats) -> list[str]:
        """One string a chunk, a character a coefficient."""
        from scipy.fft import dct

        clipped = np.clip(chunks_BKA, self.low, self.high).astype(np.float64)
        coefficients = dct(clipped, axis=1, norm="ortho")
        whole = np.clip(np.rint(coefficients * self.scale), -self.limit, self.limit).astype(np.int64)
        codes = (whole + self.limit + _FIRST_SYMBOL).reshape(len(whole), -1)
        return ["".join(map(chr, row)) for row in codes.tolist()]

    def decode(self, tokens_BL: npt.NDArray[np.int64]) -> Floats:
        """See ActionTokenizer; what is missing counts as zero, what is no token or too much is dropped."""
        from scipy.fft import idct

        count = self.horizon * self.action_dim
        whole = np.zeros((len(tokens_BL), count))
        for row, ids in enumerate(np.asarray(tokens_BL).tolist()):
            known = (number for number in _until(ids, self.end) if 0 <= number < self.vocab_size)
            text = "".join(self._pieces[number] for number in known)[:count]
            whole[row, : len(text)] = [ord(symbol) - _FIRST_SYMBOL - self.limit for symbol in text]
        coefficients = whole.reshape(-1, self.horizon, self.action_dim) / self.scale
        chunks = idct(coefficients, axis=1, norm="ortho")
        return np.clip(chunks, self.low, self.high).astype(np.float32)

    def to_json(self) -> str:
        """See ActionTokenizer."""
        bpe = json.loads(self.bpe.to_str())
        return _dump(self, {"scale": self.scale, "limit": self.limit, "bpe": bpe})


def fit_action_tokenizer(
    config: VLAConfig, chunks_BKA: Floats, mask_BK: npt.NDArray[np.bool_]
) -> ActionTokenizer:
    """The tokenizer that ``config.action_tokenizer`` names, fitted on normalised training chunks.

    Raises:
        FoundryError: ``config.action_vocab`` has no room for the coefficients at ``config.dct_scale``.
    """
    low, high = fit_range(chunks_BKA[mask_BK])
    if config.action_tokenizer == "bins":
        return BinTokenizer(low, high, config.horizon, config.action_vocab)
    largest = float(np.maximum(np.abs(low), np.abs(high)).max()) * config.horizon**0.5
    limit = int(np.ceil(largest * config.dct_scale))
    symbols = 2 * limit + 1
    if symbols + 1 > min(config.action_vocab, _SYMBOLS):
        raise FoundryError(
            f"model.action_vocab={config.action_vocab} has no room for {symbols} values of a coefficient; "
            f"raise it, or lower model.dct_scale={config.dct_scale:g} (coarser actions)"
        )
    untrained = DCTTokenizer(low, high, config.horizon, config.dct_scale, limit, Tokenizer(models.BPE()))
    texts = untrained.symbols(hold_last(chunks_BKA, mask_BK))
    bpe = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=config.action_vocab,
        special_tokens=[_END],
        initial_alphabet=[chr(_FIRST_SYMBOL + number) for number in range(symbols)],
        show_progress=False,
    )
    bpe.train_from_iterator(sorted(texts), trainer)
    return DCTTokenizer(low, high, config.horizon, config.dct_scale, limit, bpe)


def hold_last(chunks_BKA: Floats, mask_BK: npt.NDArray[np.bool_]) -> Floats:
    """The same chunks, with every action that is not real replaced by the last real one before it."""
    steps = np.where(mask_BK, np.arange(mask_BK.shape[1]), 0)
    last_BK = np.maximum.accumulate(steps, axis=1)
    return np.take_along_axis(chunks_BKA, last_BK[:, :, None], axis=1)


def read_action_tokenizer(
    text: str, config: VLAConfig, where: str = "action_tokenizer.json"
) -> ActionTokenizer:
    """What ``to_json`` wrote.

    Raises:
        FoundryError: naming ``where``, when it is no such file, is damaged, or is not the model's.
    """
    try:
        entries = json.loads(text)
        tokenizer = _build(entries)
        usable = (
            np.isfinite(tokenizer.low).all()
            and np.isfinite(tokenizer.high).all()
            and tokenizer.low.shape == tokenizer.high.shape
            and bool((tokenizer.low < tokenizer.high).all())
        )
        end = tokenizer.end
    except Exception as error:  # the tokenizers library raises bare Exception for every malformed file
        raise FoundryError(
            f"{where} is not an action tokenizer ({error!r}); restore the file or train again"
        ) from error
    if not usable:
        raise FoundryError(f"{where} has an unusable range of actions; restore the file or train again")
    for key, found, wanted in (
        ("action_tokenizer", tokenizer.kind, config.action_tokenizer),
        ("horizon", tokenizer.horizon, config.horizon),
        ("action_dim", tokenizer.action_dim, config.action_dim),
    ):
        if found != wanted:
            raise FoundryError(
                f"{where} has {key}={found}, the model wants model.{key}={wanted}; "
                "give the folder or the experiment that belongs to the model"
            )
    if tokenizer.vocab_size > config.action_vocab or (end is not None and end >= config.action_vocab):
        raise FoundryError(
            f"{where} has {tokenizer.vocab_size} tokens, more than model.action_vocab={config.action_vocab}"
            "; give the folder or the experiment that belongs to the model"
        )
    return tokenizer


def _build(entries: Mapping[str, Any]) -> BinTokenizer | DCTTokenizer:
    low, high = (np.asarray(entries[name], dtype=np.float32) for name in ("low", "high"))
    horizon = int(entries["horizon"])
    if entries["kind"] == "bins":
        if int(entries["bins"]) < 1:
            raise ValueError(f"bins {entries['bins']}")
        return BinTokenizer(low, high, horizon, int(entries["bins"]))
    if entries["kind"] != "dct":
        raise ValueError(f"kind {entries['kind']!r}")
    bpe = Tokenizer.from_str(json.dumps(entries["bpe"]))
    tokenizer = DCTTokenizer(low, high, horizon, float(entries["scale"]), int(entries["limit"]), bpe)
    last = _FIRST_SYMBOL + 2 * tokenizer.limit
    pieces = (bpe.id_to_token(number) or "" for number in range(bpe.get_vocab_size()))
    foreign = [p for p in pieces if p != _END and not all(_FIRST_SYMBOL <= ord(c) <= last for c in p)]
    if foreign or not tokenizer.scale > 0:
        raise ValueError(f"tokens that are no coefficients: {foreign[:3]}" if foreign else "scale")
    return tokenizer


def _dump(tokenizer: BinTokenizer | DCTTokenizer, more: dict[str, Any]) -> str:
    entries = {
        "kind": tokenizer.kind,
        "horizon": tokenizer.horizon,
        "low": [float(f"{value:.9g}") for value in tokenizer.low],
        "high": [float(f"{value:.9g}") for value in tokenizer.high],
        **more,
    }
    return json.dumps(entries, indent=1, ensure_ascii=True) + "\n"


def _until(ids: Sequence[int], end: int | None) -> Sequence[int]:
    """The ids before the first end mark."""
    return ids[: ids.index(end)] if end is not None and end in ids else ids
