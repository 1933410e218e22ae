"""Open a dataset of captions with Hugging Face `datasets` and `webdataset`; compare it with our reader.

Needs a virtual environment of its own, because neither package is a dependency:

    python -m venv datasets-venv
    datasets-venv/bin/pip install datasets webdataset pillow opencv-python-headless
    PYTHONPATH=. datasets-venv/bin/python tests/data/captions/check_with_datasets.py DATASET
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from foundry_bench.data.captions.reader import CaptionDataset


def check(root: Path, split: str, cache: str) -> int:
    """Compare one split; returns how many pairs were compared."""
    import datasets
    import webdataset

    ours = CaptionDataset(root, split)
    hub = {"val": "validation"}.get(split, split)
    theirs = datasets.load_dataset(str(root), cache_dir=cache)[hub]
    shards = sorted(str(path) for path in (root / "webdataset").glob(f"{split}-*.tar"))
    tars = webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("png;jpg", "json")
    assert len(theirs) == ours.images
    pairs = 0
    for image, (row, (picture, plain)) in enumerate(zip(theirs, tars, strict=True)):
        expected = ours.image(image)
        assert np.array_equal(np.asarray(row["image"].convert("RGB")), expected), row["key"]
        assert np.array_equal(np.asarray(picture.convert("RGB")), expected), row["key"]
        own = [ours[index] for index in ours.pairs_of(image)]
        for found in (row, plain):
            told = [(pair["kind"], pair["question"], pair["answer"]) for pair in found["pairs"]]
            assert told == [(sample.kind, sample.question, sample.answer) for sample in own], row["key"]
            points = [None if pair["x"] is None else (pair["x"], pair["y"]) for pair in found["pairs"]]
            assert points == [sample.point for sample in own], row["key"]
        pairs += len(own)
    return pairs


def main() -> int:
    """Compare every split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    root = parser.parse_args().dataset
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        for split in ("train", "val", "test"):
            if any((root / "parquet").glob(f"{split}-*.parquet")):
                print(f"{split}: {check(root, split, cache)} pairs are equal")
        text = datasets.load_dataset(str(root), "text", cache_dir=cache)
        print("text:", {split: len(rows) for split, rows in text.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
