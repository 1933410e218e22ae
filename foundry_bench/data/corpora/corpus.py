"""An opened corpus: documents to train on and documents to validate on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from foundry_bench.data.corpora import embedded
from foundry_bench.data.corpora.documents import Documents, HubDocuments, open_files
from foundry_bench.data.corpora.packed import Encode, PackedTokens, pack
from foundry_bench.data.corpora.spec import CorpusSpec
from foundry_bench.data.corpora.splits import is_held_out
from foundry_bench.data.corpora.stream import TokenStream
from foundry_bench.errors import FoundryError

#: Of a streamed corpus so many documents are looked at to find those that are held out.
_LOOKED_AT = 20_000


@dataclass(frozen=True)
class Corpus:
    """Documents of one corpus.

    Attributes:
        spec: what it is.
        documents: all documents, or those to train on where the corpus has a split of its own.
        validation: the documents of that split; None: documents are held out by their content.
    """

    spec: CorpusSpec
    documents: Documents
    validation: Documents | None = None

    def train_texts(self) -> Iterator[str]:
        """Documents to train on, in their stored order."""
        share = 0.0 if self.validation is not None else self.spec.held_out
        return (text for text, _ in self.documents.read() if not is_held_out(text, share))

    def validation_texts(self) -> Iterator[str]:
        """Documents that are not trained on; of a streamed corpus those near its start."""
        if self.validation is not None:
            return (text for text, _ in self.validation.read())
        rows = self.documents.read()
        if self.spec.streaming:
            rows = islice(rows, _LOOKED_AT)
        return (text for text, _ in rows if is_held_out(text, self.spec.held_out))

    def packed(self, encode: Encode, end: int, length: int) -> PackedTokens:
        """The training documents as tokens in memory, in blocks of ``length``.

        Raises:
            FoundryError: the corpus is empty, too small for a block, or damaged.
        """
        tokens, size = pack(self.train_texts(), encode, end)
        if not len(tokens):
            raise FoundryError(
                f"corpus '{self.spec.name}' ({self.spec.path or self.spec.format}) has no documents to train "
                "on; give one that has, or hold out less (held_out)"
            )
        return PackedTokens(tokens, length, size, self.spec.name)

    def packed_validation(self, encode: Encode, end: int, length: int, blocks: int) -> PackedTokens | None:
        """The first validation documents as tokens, about so many blocks; None where they do not fill one."""
        wanted = blocks * (length - 1) + 1
        texts: list[str] = []
        count = 0
        for text in self.validation_texts():
            texts.append(text)
            count += len(encode([text])[0]) + 1
            if count >= wanted:
                break
        tokens, size = pack(texts, encode, end)
        if len(tokens) < length:
            return None
        return PackedTokens(tokens, length, size, self.spec.name)

    def stream(self, encode: Encode, end: int, length: int, rank: int = 0, world: int = 1) -> TokenStream:
        """The training documents as a stream of blocks."""
        share = 0.0 if self.validation is not None else self.spec.held_out
        return TokenStream(self.documents, encode, end, length, share, rank, world)


def open_corpus(spec: CorpusSpec, root: Path | None = None) -> Corpus:
    """Open a corpus; nothing of its text is read yet.

    Args:
        spec: what it is.
        root: where relative paths start; None: the working directory.

    Raises:
        FoundryError: its files, folder or package are not there.
    """
    if spec.format == "simulator":
        train, validation = embedded.simulator(spec, root)
        return Corpus(spec, train, validation)
    if spec.format == "shakespeare":
        return Corpus(spec, embedded.shakespeare(spec))
    if spec.format == "hub":
        return Corpus(spec, HubDocuments(spec))
    return Corpus(spec, open_files(spec, root))
