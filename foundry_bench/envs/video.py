"""Writing rollout videos that browsers play."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


class VideoWriter:
    """Writes frames to an H.264 file as they come.

    Args:
        path: the file to write; its folder is made.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: int) -> None:
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._fps = fps
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: Any = None

    def add(self, frame: np.ndarray) -> None:
        """Append one frame, uint8 (height, width, 3); odd sizes lose a row or a column."""
        import av

        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self._fps)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.options = {"crf": "23", "threads": "1"}
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()
