"""Names of colours, read from pixels.

The colour of a thing is read from a second picture of the same view, drawn with nothing but even ambient
light: what is left is the colour of the material and its texture, whatever the jitter of the lights did.
Each visible pixel of the thing votes for one of twelve names; a name that most agree on is the colour.
"""

from __future__ import annotations

import cv2
import numpy as np

#: The eleven basic colour terms of Berlin and Kay (1969), and beige, for pale wood.
COLOURS = (
    "black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "beige",
)  # fmt: skip
#: Paints: red, green and blue factors on a light material.
PAINTS = {
    "red": (0.75, 0.07, 0.08),
    "green": (0.1, 0.55, 0.15),
    "blue": (0.1, 0.2, 0.8),
    "yellow": (0.9, 0.8, 0.1),
    "purple": (0.5, 0.12, 0.65),
}
_CLEAR = 0.55  # share of the pixels that must agree
_RIVAL = 0.3  # share of another colour at which a thing has no one colour


def classify(pixels: np.ndarray) -> np.ndarray:
    """Indices into `COLOURS` for RGB pixels, uint8 (n, 3) -> int64 (n,)."""
    hsv = cv2.cvtColor(pixels.reshape(1, -1, 3), cv2.COLOR_RGB2HSV)[0].astype(np.float64)
    hue, saturation, value = hsv[:, 0] * 2.0, hsv[:, 1] / 255.0, hsv[:, 2] / 255.0
    names = np.select(
        [
            value < 0.22,
            (saturation < 0.17) & (value > 0.72),
            saturation < 0.17,
            (saturation < 0.5) & (value > 0.55) & (hue >= 18) & (hue < 50),
            (hue < 18) | (hue >= 345),
            (hue < 45) & (value < 0.62),
            hue < 40,
            hue < 68,
            hue < 170,
            hue < 262,
            hue < 310,
        ],
        [COLOURS.index(name) for name in (
            "black", "white", "grey", "beige", "red", "brown", "orange", "yellow", "green", "blue", "purple",
        )],
        default=COLOURS.index("pink"),
    )  # fmt: skip
    return names.astype(np.int64)


def colour_of(pixels: np.ndarray) -> tuple[str | None, list[str]]:
    """The one colour of pixels uint8 (n, 3), if there is one, and every colour that is seen at all.

    Returns:
        The name, or None where no colour has a clear majority; and the names of colours with at least 5 % of
        the pixels, which nobody may be told are not there.
    """
    if not len(pixels):
        return None, []
    shares = np.bincount(classify(pixels), minlength=len(COLOURS)) / len(pixels)
    order = np.argsort(-shares, kind="stable")
    seen = [COLOURS[index] for index in order if shares[index] >= 0.05]
    clear = shares[order[0]] >= _CLEAR and shares[order[1]] <= _RIVAL
    return (COLOURS[order[0]] if clear else None), seen
