"""Text as a source of training batches: blocks of tokens from corpora, the language loss, perplexity.

Shapes: B blocks, S predicted tokens of a block (model.context), T tokens, D width, V vocabulary. A batch:
tokens (B, S + 1).
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foundry_bench.data.corpora.corpus import Corpus, open_corpus
from foundry_bench.data.corpora.packed import PackedTokens
from foundry_bench.data.corpora.splits import Schedule
from foundry_bench.data.corpora.stream import TokenStream, check_ranks
from foundry_bench.errors import FoundryError
from foundry_bench.policies.language import LanguageModel
from foundry_bench.policies.losses import token_losses
from foundry_bench.policies.tokenizer import TextTokenizer
from foundry_bench.training.config import TrainConfig
from foundry_bench.training.stage import Batch
from foundry_bench.training.text_config import TextConfig

CURSORS = "text_cursors.json"
LOGITS_AT_ONCE = 2**28  # 1 GiB in fp32


class HasLanguage(Protocol):
    """A model with a language model: `TextModel`, a VLA."""

    language: LanguageModel


class TextSource:
    """Batches, loss and measures of text, for a stage of its own or beside other sources.

    Non-obvious behaviours: of corpora in memory a batch is a function of (seed, number) alone. Streamed
    corpora are read in order; where each stands before the last few batches is remembered and comes with
    ``files``, so that a resumed run reads on exactly there. With several ranks, a batch's rows are divided
    among them in order; rows of streamed corpora come from each rank's own documents.

    Args:
        corpora: opened corpora; their weights are shares of the blocks.
        tokenizer: encodes the text; its end token separates documents.
        context: S, tokens that a block predicts.
        batch_size: blocks of a batch, over all ranks.
        seed: of the order.
        z_loss: see `block_loss`.
        validation_blocks: of each corpus.
        files: ``files`` of the run that is resumed.
        rank, world: which of how many processes this is.
        remembered: batches whose cursors are kept; more than are prepared ahead of training.

    Raises:
        FoundryError: a corpus is empty, damaged or too small; ranks that cannot be; a batch that the ranks
            cannot share evenly; a damaged file of cursors.
    """

    name = "text"

    def __init__(
        self,
        corpora: Sequence[Corpus],
        tokenizer: TextTokenizer,
        *,
        context: int,
        batch_size: int,
        seed: int,
        z_loss: float = 0.0,
        validation_blocks: int = 64,
        files: Mapping[str, str] | None = None,
        rank: int = 0,
        world: int = 1,
        remembered: int = 16,
    ) -> None:
        check_ranks(rank, world)
        if batch_size % world:
            raise FoundryError(
                f"train.batch_size={batch_size} cannot be divided among {world} processes; choose a multiple"
            )
        self._corpora, self._tokenizer = corpora, tokenizer
        self._length, self._seed, self._z_loss = context + 1, seed, z_loss
        self._batch_size, self._rank, self._world = batch_size, rank, world
        self._validation_blocks = validation_blocks
        self._schedule = Schedule([corpus.spec.weight for corpus in corpora], seed)
        encode, end = tokenizer.encode_many, tokenizer.end
        self._packed: dict[int, PackedTokens] = {}
        self._streams: dict[int, TokenStream] = {}
        for index, corpus in enumerate(corpora):
            if corpus.spec.streaming:
                self._streams[index] = corpus.stream(encode, end, self._length, rank, world)
            else:
                self._packed[index] = corpus.packed(encode, end, self._length)
        self._held_out: list[PackedTokens | None] | None = None
        self._lock = threading.Lock()  # batches are made in another thread than ``files`` is asked in
        self._remembered = remembered
        self._next = 0
        self._cursors: dict[int, list[Any]] = {0: [None] * len(self._streams)}
        if files is not None and CURSORS in files:
            self._cursors = _read_cursors(files[CURSORS], len(self._streams))
            self._next = -1

    @property
    def tokens_per_sample(self) -> int:
        """Tokens that a block predicts: a sample of this source is a block."""
        return self._length - 1

    def batch(self, number: int) -> Batch:
        """The batch of a number, on the CPU: this rank's rows of it."""
        first = number * self._batch_size
        corpora, before = self._schedule.rows(first, self._batch_size)
        share = self._batch_size // self._world
        mine = slice(self._rank * share, (self._rank + 1) * share)
        corpora, before = corpora[mine], before[mine]
        tokens = np.empty((share, self._length), dtype=np.int64)
        for index, packed in self._packed.items():
            rows = corpora == index
            if rows.any():
                tokens[rows] = packed.shuffled(before[rows], self._seed)
        if self._streams:
            with self._lock:
                self._seek(number)
                for index, stream in self._streams.items():
                    rows = corpora == index
                    tokens[rows] = stream.take(int(rows.sum()))
                self._next = number + 1
                self._cursors[self._next] = [stream.cursor for stream in self._streams.values()]
                for old in [each for each in self._cursors if each <= number - self._remembered]:
                    del self._cursors[old]
        return {"tokens": torch.from_numpy(tokens)}

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """Mean loss of the next token; there is no chance in it."""
        del generator
        return block_loss(_language(model), batch["tokens"], self._z_loss)

    def describe(self, number: int) -> str:
        """What a batch was made of, for whoever looks for what went wrong."""
        corpora, _ = self._schedule.rows(number * self._batch_size, self._batch_size)
        counts = np.bincount(corpora, minlength=len(self._corpora))
        parts = [
            f"{count} of {corpus.spec.name}"
            for corpus, count in zip(self._corpora, counts, strict=True)
            if count
        ]
        return f"batch {number}: blocks of text, {', '.join(parts)}"

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Of held-out text: loss (nats a token), perplexity, bits per byte; empty where nothing is held out.

        Over several corpora by their weights; ``perplexity_NAME`` is of one.
        """
        if self._held_out is None:
            self._held_out = [
                corpus.packed_validation(
                    self._tokenizer.encode_many, self._tokenizer.end, self._length, self._validation_blocks
                )
                for corpus in self._corpora
            ]
        measures: dict[str, float] = {}
        losses, bits, weights = [], [], []
        for corpus, packed in zip(self._corpora, self._held_out, strict=True):
            if packed is None:
                continue
            loss = held_out_loss(_language(model), packed, self._validation_blocks, self._batch_size)
            losses.append(loss)
            bits.append(loss / math.log(2) * len(packed.tokens) / packed.text_bytes)
            weights.append(corpus.spec.weight)
            measures[f"perplexity_{corpus.spec.name}"] = math.exp(min(loss, 700.0))
        if not losses:
            return {}
        mean = float(np.average(losses, weights=weights))
        return {
            "loss": mean,
            "perplexity": math.exp(min(mean, 700.0)),
            "bits_per_byte": float(np.average(bits, weights=weights)),
            **(measures if len(losses) > 1 else {}),
        }

    def identity(self) -> Mapping[str, Any]:
        """Plain values that must be the same for a run to be resumed."""
        found: dict[str, Any] = {"corpora": [corpus.spec.name for corpus in self._corpora]}
        for index, corpus in enumerate(self._corpora):
            spec = corpus.spec
            if index in self._packed:
                packed = self._packed[index]
                what = {"tokens": len(packed.tokens), "fingerprint": packed.fingerprint}
            else:
                what = {"path": spec.path, "subset": spec.subset, "split": spec.split, "column": spec.column,
                        "held_out": spec.held_out, "world": self._world}  # fmt: skip
            found[spec.name] = {"weight": spec.weight, **what}
        return found

    def files(self) -> Mapping[str, str]:
        """Where the streams stand, as small text files; empty without streams."""
        if not self._streams:
            return {}
        with self._lock:
            cursors = {str(number): each for number, each in sorted(self._cursors.items())}
        return {CURSORS: json.dumps(cursors, indent=1) + "\n"}

    def _seek(self, number: int) -> None:
        """Put the streams where they stand before the batch of a number."""
        if number == self._next:
            return
        if number not in self._cursors:
            raise FoundryError(
                f"batch {number} of a streamed corpus cannot be made: known are the places before batches "
                f"{min(self._cursors)} to {max(self._cursors)}; train anew"
            )
        for stream, cursor in zip(self._streams.values(), self._cursors[number], strict=True):
            stream.seek(cursor)
        self._cursors = {number: self._cursors[number]}


def block_loss(language: LanguageModel, tokens_BS: Tensor, z_loss: float = 0.0) -> Tensor:
    """Mean cross-entropy of every token but the first, in nats.

    Non-obvious behaviour: where a batch has more than ``LOGITS_AT_ONCE`` logits they are made in parts, and
    again in the backward pass, so that memory never holds all of them.

    Args:
        language: the language model.
        tokens_BS: blocks (B, S + 1).
        z_loss: coefficient of the mean squared logarithm of the softmax's denominator, added to it.
    """
    hidden_BSD, _ = language.read_text(tokens_BS[:, :-1])
    hidden_TD, targets_T = hidden_BSD.flatten(0, 1), tokens_BS[:, 1:].flatten()
    rows = max(1, LOGITS_AT_ONCE // language.vocab_size)
    if len(targets_T) <= rows:
        return _summed_loss(language, hidden_TD, targets_T, z_loss) / len(targets_T)
    parts = [
        checkpoint(_summed_loss, language, hidden, targets, z_loss, use_reentrant=False)
        for hidden, targets in zip(hidden_TD.split(rows), targets_T.split(rows), strict=True)
    ]
    return torch.stack(parts).sum() / len(targets_T)


def _summed_loss(language: LanguageModel, hidden_TD: Tensor, targets_T: Tensor, z_loss: float) -> Tensor:
    return token_losses(language.logits(hidden_TD)[None], targets_T[None], z_loss).sum()


@torch.no_grad()
def held_out_loss(language: LanguageModel, packed: PackedTokens, blocks: int, batch_size: int) -> float:
    """Mean cross-entropy over the first blocks of a corpus, in nats a token."""
    device = language.embedding.weight.device
    count = min(blocks, len(packed))
    total = 0.0
    for first in range(0, count, batch_size):
        numbers = np.arange(first, min(first + batch_size, count))
        tokens = torch.from_numpy(packed.blocks(numbers)).to(device)
        total += float(block_loss(language, tokens)) * len(numbers)
    return total / count


def _language(model: nn.Module) -> LanguageModel:
    language = getattr(model, "language", None)
    assert isinstance(language, LanguageModel), "text is a source of models with a language model"
    return language


def _read_cursors(text: str, streams: int) -> dict[int, list[Any]]:
    try:
        cursors = {int(number): list(each) for number, each in json.loads(text).items()}
        if not cursors or any(len(each) != streams for each in cursors.values()):
            raise ValueError(f"not of {streams} streams")
    except (ValueError, TypeError, AttributeError) as error:
        raise FoundryError(f"{CURSORS} of the saved state is damaged ({error}); train anew") from error
    return cursors


def open_text_source(
    text: TextConfig,
    tokenizer: TextTokenizer,
    block: int,
    config: TrainConfig,
    files: Mapping[str, str] | None = None,
) -> TextSource:
    """Text as a source beside others.

    Args:
        text: which corpora.
        tokenizer: the model's.
        block: tokens that a block predicts.
        config: of the run.
        files: of the run that is resumed.
    """
    return TextSource(
        [open_corpus(spec) for spec in text.corpora],
        tokenizer,
        context=block,
        batch_size=config.batch_size,
        seed=config.seed,
        z_loss=config.z_loss,
        validation_blocks=text.validation_blocks,
        files=files,
        remembered=config.prefetch + 8,
    )
