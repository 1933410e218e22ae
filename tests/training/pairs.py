"""Image-text pairs in the form that ``foundry-bench captions`` writes, without a simulator."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foundry_bench.data.captions.shards import SCHEMA

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 220)}
_SCENES = {"train": 24, "val": 6, "test": 3}


def write_pairs(root: Path, size: int = 32, cameras: tuple[str, ...] = ("agentview", "wrist")) -> Path:
    """Pictures of one colour; a question after it with a short answer, and a caption."""
    (root / "parquet").mkdir(parents=True)
    files: dict[str, dict[str, int]] = {}
    number = 0
    for split, scenes in _SCENES.items():
        rows = []
        for _ in range(scenes):
            colour = list(COLOURS)[number % len(COLOURS)]
            picture = np.full((size, size, 3), COLOURS[colour], np.uint8)
            encoded = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
            for camera in cameras:
                key = f"toy-{number}-{camera}"
                questions = (
                    ("colour", "What colour is it?", colour),
                    ("caption", "Describe it.", f"It is {colour}."),
                )
                rows.append(
                    {
                        "key": key, "suite": "toy", "task": 0, "camera": camera, "instruction": "look",
                        "scrambled": False, "image": {"bytes": encoded, "path": f"{key}.png"}, "facts": "{}",
                        "pairs": [
                            {"kind": kind, "question": asked, "answer": told, "x": None, "y": None}
                            for kind, asked, told in questions
                        ],
                    }
                )  # fmt: skip
            number += 1
        name = f"parquet/{split}-00000.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), root / name)
        files[name] = {"bytes": (root / name).stat().st_size}
    manifest = {
        "fingerprint": "0123456789ab",
        "config": {"image_size": size, "scenes": sum(_SCENES.values())},
        "files": files,
    }
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root
