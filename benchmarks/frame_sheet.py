"""Turn rollout videos into one picture: a row of frames per video.

python benchmarks/frame_sheet.py OUT.png results/NAME/eval/videos/*success.mp4 --frames 8
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np
from PIL import Image


def row(path: Path, count: int) -> np.ndarray:
    """Frames spread evenly over a video, side by side: uint8 (height, count * width, 3)."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    return np.concatenate([frames[index] for index in chosen], axis=1)


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=8)
    arguments = parser.parse_args()
    rows = [row(path, arguments.frames) for path in arguments.videos]
    width = min(picture.shape[1] for picture in rows)
    Image.fromarray(np.concatenate([picture[:, :width] for picture in rows])).save(arguments.out)


if __name__ == "__main__":
    main()
