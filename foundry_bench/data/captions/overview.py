"""A picture to look at: some images, each with some of its pairs, and the points that these speak of."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from foundry_bench.data.captions.config import CaptionsConfig
from foundry_bench.data.captions.pairs import KINDS, Pair
from foundry_bench.data.images import decode_image, encode_image

if TYPE_CHECKING:
    from foundry_bench.data.captions.write import Picture

_IMAGES = 9  # times two: one half may be missing
_PER_IMAGE = 7
_SIDE, _TEXT, _LINE, _WRAP = 260, 480, 17, 62  # pixels, pixels, pixels, characters
_COLOURS = ((230, 60, 60), (60, 200, 60), (70, 120, 255), (240, 200, 40), (220, 80, 220), (60, 220, 220))


class Overview:
    """Gathers images, spread over the dataset, and draws them."""

    def __init__(self, config: CaptionsConfig) -> None:
        total = config.scenes * len(config.cameras)
        self._generator = np.random.default_rng([config.seed, 0x0E])
        turns = self._generator.permutation(total)[: 2 * _IMAGES]  # some images have no pairs
        self._turns = {int(turn) for turn in turns}
        self._tiles: list[np.ndarray] = []
        self._shown: dict[str, int] = dict.fromkeys(KINDS, 0)

    def add(self, picture: Picture, number: int) -> None:
        """Take an image, the ``number``-th of the dataset, if it is its turn."""
        if number in self._turns:
            self._tiles.append(self._tile(picture))

    def write(self, path: Path) -> None:
        """Write the sheet as PNG, three images in a row; nothing without images."""
        if not self._tiles:
            return
        height = max(tile.shape[0] for tile in self._tiles)
        tiles = [np.pad(t, ((0, height - len(t)), (0, 0), (0, 0)), constant_values=255) for t in self._tiles]
        while len(tiles) % 3:
            tiles.append(np.full_like(tiles[0], 255))
        rows = [np.concatenate(tiles[i : i + 3], axis=1) for i in range(0, len(tiles), 3)]
        path.write_bytes(encode_image(np.concatenate(rows), "png"))

    def _tile(self, picture: Picture) -> np.ndarray:
        image = decode_image(picture.view.image)
        factor = _SIDE / image.shape[0]
        drawn = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
        lines: list[tuple[str, tuple[int, int, int]]] = [(f"{picture.key} ({picture.split})", (0, 0, 0))]
        for number, pair in enumerate(self._choose(picture.pairs)):
            colour = (40, 40, 40)
            if pair.point is not None:
                colour = _COLOURS[number % len(_COLOURS)]
                centre = tuple(int((value + 0.5) * factor) for value in pair.point)
                cv2.circle(drawn, centre, 6, (0, 0, 0), 3)
                cv2.circle(drawn, centre, 6, colour, 2)
            wrapped = textwrap.wrap(f"{pair.question} -> {pair.answer}", _WRAP)
            lines += [(line, colour) for line in wrapped]
        height = max(_SIDE, _LINE * (len(lines) + 1))
        tile = np.full((height + 8, _SIDE + _TEXT, 3), 255, dtype=np.uint8)
        tile[:_SIDE, :_SIDE] = drawn
        for row, (line, colour) in enumerate(lines):
            dark = tuple(int(value * 0.65) for value in colour)
            plain = line.encode("ascii", "replace").decode()
            place = (_SIDE + 8, _LINE * (row + 1))
            cv2.putText(tile, plain, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, dark, 1, cv2.LINE_AA)
        return tile

    def _choose(self, pairs: tuple[Pair, ...]) -> list[Pair]:
        """Pairs of different kinds, those first that were shown least."""
        order = [pairs[index] for index in self._generator.permutation(len(pairs))]
        chosen: list[Pair] = []
        while order and len(chosen) < _PER_IMAGE:
            pair = min(order, key=lambda candidate: self._shown[candidate.kind])
            order.remove(pair)
            self._shown[pair.kind] += 1
            chosen.append(pair)
        return chosen
