"""Packed tokens, streams and mixtures: nothing lost, nothing twice, the same after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.data.corpora.corpus import Corpus, open_corpus
from foundry_bench.data.corpora.documents import TextDocuments
from foundry_bench.data.corpora.packed import PackedTokens, pack
from foundry_bench.data.corpora.spec import CorpusSpec
from foundry_bench.data.corpora.splits import Schedule, is_held_out
from foundry_bench.data.corpora.stream import TokenStream
from foundry_bench.errors import FoundryError
from tests.data.corpora.files import END, TEXTS, decode, encode, write_jsonl, write_parquet


def packed(length: int = 17) -> PackedTokens:
    tokens, size = pack(TEXTS, encode, END)
    return PackedTokens(tokens, length, size, "test")


def test_documents_follow_each_other_with_an_end_between() -> None:
    tokens, size = pack(TEXTS, encode, END)
    assert decode(tokens.tolist()) == "".join(text + "|" for text in TEXTS)
    assert size == sum(len(text) for text in TEXTS)
    assert tokens.dtype == np.uint16
    assert pack(TEXTS[:1], encode, 70_000)[0].dtype == np.uint32


def test_every_token_but_the_first_is_predicted_once() -> None:
    corpus = packed()
    blocks = corpus.blocks(np.arange(len(corpus)))
    assert blocks.shape == (len(corpus), 17)
    targets = blocks[:, 1:].flatten()
    assert (targets == corpus.tokens[1 : 1 + len(targets)]).all()
    assert len(corpus.tokens) - 1 - len(targets) < 16


def test_every_epoch_is_another_permutation_and_a_place_says_it_all() -> None:
    corpus, count = packed(), len(packed())
    places = np.arange(2 * count)
    stream = corpus.shuffled(places, seed=3)
    first, second = stream[:count], stream[count:]
    every = sorted(map(tuple, corpus.blocks(np.arange(count)).tolist()))
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, second.tolist())) == every
    assert (first != second).any()
    fresh = packed()
    for start in (5, 0, count - 3):
        assert (fresh.shuffled(np.arange(start, start + 8), seed=3) == stream[start : start + 8]).all()
    assert (fresh.shuffled(places, seed=4) != stream).any()


def test_a_corpus_that_does_not_fill_a_block_is_refused() -> None:
    with pytest.raises(FoundryError, match=r"corpus 'test' has \d+ tokens, less than one block of 99999"):
        packed(99_999)


def test_what_is_held_out_depends_on_the_text_alone() -> None:
    texts = [f"text {number}" for number in range(4000)]
    held = [text for text in texts if is_held_out(text, 0.1)]
    assert 300 < len(held) < 500
    assert {text for text in texts if is_held_out(text, 0.05)} < set(held)
    assert not any(is_held_out(text, 0.0) for text in texts)


def corpus(**changes: Any) -> Corpus:
    return Corpus(CorpusSpec(path="memory", held_out=0.2, **changes), TextDocuments("memory", TEXTS))


def test_nothing_is_in_training_and_validation() -> None:
    train, held = list(corpus().train_texts()), list(corpus().validation_texts())
    assert sorted([*train, *held]) == sorted(TEXTS)
    assert 2 < len(held) < 16
    validation = corpus().packed_validation(encode, END, 17, blocks=3)
    assert validation is not None
    assert decode(validation.tokens.tolist())[:40] == (held[0] + "|" + held[1])[:40]
    assert len(validation) >= 3
    assert corpus().packed_validation(encode, END, 99_999, blocks=3) is None


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["", " "])
    for texts in (path, write_parquet(tmp_path / "a.parquet", [])):
        empty = open_corpus(CorpusSpec(name="none", path=str(texts)))
        with pytest.raises(FoundryError, match=r"corpus 'none' .* has no documents to train on"):
            empty.packed(encode, END, 17)
        with pytest.raises(FoundryError, match="corpus 'none' has no documents to train on"):
            empty.stream(encode, END, 17).take(1)


def stream(length: int = 17, **options: Any) -> TokenStream:
    return TokenStream(TextDocuments("memory", TEXTS), encode, END, length, **options)


def test_a_stream_gives_what_is_packed_and_starts_again() -> None:
    corpus = packed()
    blocks = stream().take(len(corpus))
    assert (blocks == corpus.blocks(np.arange(len(corpus)))).all()
    twice = stream().take(2 * len(corpus))
    text = decode([int(twice[0, 0]), *twice[:, 1:].flatten().tolist()])
    assert text in 3 * "".join(each + "|" for each in TEXTS)


@settings(deadline=None, max_examples=40)
@given(
    before=st.integers(0, 250),
    length=st.integers(2, 120),
    held_out=st.sampled_from([0.0, 0.3]),
    ranks=st.sampled_from([(0, 1), (0, 3), (2, 3)]),
)
def test_a_stream_goes_on_from_its_cursor(
    before: int, length: int, held_out: float, ranks: tuple[int, int]
) -> None:
    options = {"held_out": held_out, "rank": ranks[0], "world": ranks[1]}
    one = stream(length, **options)
    one.take(before)
    cursor = json.loads(json.dumps(one.cursor))
    other = stream(length, **options)
    other.seek(cursor)
    assert other.cursor == cursor
    for _ in range(3):
        assert (other.take(7) == one.take(7)).all()
        assert other.cursor == one.cursor


def test_ranks_share_the_documents() -> None:
    def documents(rank: int, world: int) -> set[str]:
        one_pass = sum(len(text) + 1 for text in TEXTS) // world // 16
        blocks = stream(rank=rank, world=world).take(one_pass)
        text = decode([int(blocks[0, 0]), *blocks[:, 1:].flatten().tolist()])
        return set(text.split("|")[:-1])

    parts = [documents(rank, 3) for rank in range(3)]
    assert not parts[0] & parts[1] | parts[1] & parts[2] | parts[0] & parts[2]
    assert len(parts[0] | parts[1] | parts[2]) >= len(TEXTS) - 6  # the last ones are cut off
    assert parts[0] | parts[1] | parts[2] <= set(TEXTS)


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0), (1, 1)])
def test_ranks_that_cannot_be_are_refused(rank: int, world: int) -> None:
    with pytest.raises(FoundryError, match=f"rank={rank} of world={world}"):
        stream(rank=rank, world=world)


def test_a_stream_of_files_goes_on_in_the_middle_of_a_file(tmp_path: Path) -> None:
    for number in range(4):
        write_jsonl(tmp_path / f"{number}.jsonl", TEXTS[10 * number :][:10])
    opened = open_corpus(CorpusSpec(path=str(tmp_path), streaming=True, held_out=0.1))
    one = opened.stream(encode, END, 33)
    one.take(31)
    other = opened.stream(encode, END, 33)
    other.seek(json.loads(json.dumps(one.cursor)))
    assert (other.take(40) == one.take(40)).all()


@settings(deadline=None, max_examples=30)
@given(
    weights=st.lists(st.floats(0.001, 100), min_size=1, max_size=5),
    first=st.integers(0, 5000),
    count=st.integers(1, 300),
)
def test_a_schedule_counts_without_counting(weights: list[float], first: int, count: int) -> None:
    """What each corpus has given before is what counting from the start would say."""
    corpora, before = Schedule(weights, seed=1).rows(first, count)
    every, _ = Schedule(weights, seed=1).rows(0, first + count)
    assert (every[first:] == corpora).all()
    for row in range(count):
        assert before[row] == np.count_nonzero(every[: first + row] == corpora[row])


def test_a_schedule_keeps_to_the_weights() -> None:
    corpora, _ = Schedule([3.0, 1.0, 1e-9], seed=0).rows(0, 10_000)
    counts = np.bincount(corpora, minlength=3)
    assert counts[2] == 10  # one block in a thousand, however small the weight
    assert counts[0] / counts[1] == pytest.approx(3, rel=0.01)
    assert len(np.unique(corpora[:40])) > 1
    other, _ = Schedule([3.0, 1.0, 1e-9], seed=1).rows(0, 10_000)
    assert (other != corpora).any()
