"""Which text a language model is trained on: a corpus by its fields, named corpora, weighted sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from foundry_bench.errors import FoundryError, nearest

FORMATS = ("jsonl", "parquet", "text", "webdataset", "hub", "simulator", "shakespeare")
#: Formats that are files, with the endings by which they are recognised.
ENDINGS: dict[str, tuple[str, ...]] = {
    "jsonl": (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".jsonl.zst", ".jsonl.bz2", ".jsonl.xz"),
    "parquet": (".parquet",),
    "text": (".txt", ".text", ".txt.gz"),
    "webdataset": (".tar",),
}


@dataclass(frozen=True)
class CorpusSpec:
    """One corpus.

    Attributes:
        name: what it is called in logs and cards.
        path: files as a glob, a folder (all files of the format below it), or a hub id where the format is
            `hub`. For `simulator`: a folder that `foundry-bench captions` wrote, or empty for the texts of
            the tasks alone.
        format: one of `FORMATS`; empty: told from the file's ending.
        column: where a row keeps its text; ``a/b`` is field b of column a. A list of texts is one document, a
            line for each. Ignored for plain text.
        split: of a hub dataset.
        subset: of a hub dataset, where it has several.
        document: what is one document of a plain text file: `document` (the file), `paragraph` or `line`.
        weight: share of the training blocks, relative to the other corpora.
        held_out: share of the documents for validation, chosen by their content, so that equal documents are
            on the same side. The simulator's corpus has a split of its own.
        streaming: read from start to end while training, instead of tokenised as a whole before.
    """

    name: str = "corpus"
    path: str = ""
    format: str = ""
    column: str = "text"
    split: str = "train"
    subset: str = ""
    document: str = "document"
    weight: float = 1.0
    held_out: float = 0.05
    streaming: bool = False

    def __post_init__(self) -> None:
        if self.format and self.format not in FORMATS:
            raise FoundryError(
                f"corpora.{self.name}.format={self.format} is unknown: {nearest(self.format, FORMATS)}"
            )
        if self.document not in ("document", "paragraph", "line"):
            raise FoundryError(
                f"corpora.{self.name}.document={self.document} must be document, paragraph or line"
            )
        if not self.weight > 0:
            raise FoundryError(f"corpora.{self.name}.weight={self.weight} must be above 0")
        if not 0 <= self.held_out < 1:
            raise FoundryError(f"corpora.{self.name}.held_out={self.held_out} must be in [0, 1)")
        if not self.path and self.format not in ("simulator", "shakespeare"):
            raise FoundryError(
                f"corpora.{self.name}.path is empty; give files, a folder or a hub id, or one of the names "
                f"{', '.join(NAMED)}"
            )
        if self.format == "hub" and not self.streaming:
            raise FoundryError(
                f"corpora.{self.name}: a hub dataset is streamed; set streaming: true, or download it and "
                "give its files"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for identities and cards."""
        return asdict(self)


_HUB: dict[str, Any] = {"format": "hub", "streaming": True, "held_out": 0.002}

#: Corpora by name. A name can stand for several, with weights relative to each other.
#: The columns of the hub's datasets are those of their cards; they cannot be tried without a hub.
NAMED: dict[str, tuple[dict[str, Any], ...]] = {
    # Text that is at hand everywhere: the simulator's own, and public-domain plays and poems.
    "embedded": (
        {"name": "simulator", "format": "simulator", "weight": 0.5},
        {"name": "shakespeare", "format": "shakespeare", "weight": 0.5},
    ),
    "simulator": ({"name": "simulator", "format": "simulator"},),
    "shakespeare": ({"name": "shakespeare", "format": "shakespeare"},),
    # DataComp for language models, the baseline: 4 T tokens of filtered Common Crawl, CC-BY-4.0.
    "dclm": ({"name": "dclm", "path": "mlfoundations/dclm-baseline-1.0", "column": "text", **_HUB},),
    # Reinforced DataComp: the five synthetic captions of each of 12.8 M images (the images are URLs).
    "datacompdr": (
        {"name": "datacompdr", "path": "apple/DataCompDR-12M", "column": "syn.json/syn_text", **_HUB},
    ),
}


def corpora_from(values: Mapping[str, Any], where: str = "corpora") -> tuple[CorpusSpec, ...]:
    """Corpora from plain values: a name with its weight, or with fields of `CorpusSpec`.

    ``{embedded: 1, notes: {path: notes/*.jsonl, weight: 0.5}}``. A name that is not one of `NAMED` needs a
    ``path``. Fields given for a named corpus change it; a weight is divided among what the name stands for.

    Raises:
        FoundryError: nothing is given, a field is unknown or of the wrong type, two corpora have one name.
    """
    specs: list[CorpusSpec] = []
    for name, value in values.items():
        given = dict(value) if isinstance(value, Mapping) else {"weight": value}
        weight = given.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise FoundryError(f"{where}.{name}.weight={weight!r} must be a number")
        known = NAMED.get(str(name), ({"name": str(name)},))
        if str(name) not in NAMED and "path" not in given:
            raise FoundryError(
                f"{where}.{name} is not a corpus that is known by its name, and has no path: "
                f"{nearest(str(name), NAMED)}"
            )
        total = sum(each.get("weight", 1.0) for each in known)
        for each in known:
            merged = {**each, **_checked(given, f"{where}.{name}")}
            merged["weight"] = float(weight) * each.get("weight", 1.0) / total
            specs.append(CorpusSpec(**merged))
    names = [spec.name for spec in specs]
    if not specs:
        raise FoundryError(f"{where} names no corpus; give one of {', '.join(NAMED)}, or a name with a path")
    for name in names:
        if names.count(name) > 1:
            raise FoundryError(f"{where}: two corpora are called '{name}'; give one another name")
    return tuple(specs)


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {each.name: each.default for each in fields(CorpusSpec) if each.name not in ("name", "weight")}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise FoundryError(f"{where}.{key} is not a known key: {nearest(str(key), known)}")
        kind = type(known[key])
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise FoundryError(f"{where}.{key}={value!r} must be of type {kind.__name__}")
        checked[key] = value
    return checked
