"""How far `fast` frames are from `exact` ones: PSNR and SSIM per suite, and a picture to look at.

    python benchmarks/render_quality.py --write docs/performance.md
    python benchmarks/render_quality.py --suites libero_90 --tasks 10 20 30 --picture /tmp/look.png

Frames are of both cameras after the settling steps of init state 0, at each size. PSNR (dB) and SSIM (Wang
et al., "Image quality assessment: from error visibility to structural similarity", 2004) are means over the
tasks, with the lowest in brackets. The picture shows the first task of each suite.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter
from simulation import write_section

from foundry_bench import runtime

#: (size, camera) -> frame, uint8 of shape (size, size, 3)
Frames = dict[tuple[int, str], np.ndarray]

_SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
_CAMERAS = ("agentview", "wrist")
_SIZES = (128, 256)
_AMPLIFIED = 4
_MARGIN = 22  # pixels for a label


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images in dB; infinite when they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity of two uint8 images of shape (h, w, 3): mean over pixels and channels.

    A Gaussian window of 11 pixels, sigma 1.5; windows that reach over the edge are left out.
    """
    window = {"sigma": 1.5, "radius": 5, "axes": (0, 1)}
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = gaussian_filter(a, **window), gaussian_filter(b, **window)
    variance_a = gaussian_filter(a * a, **window) - mean_a**2
    variance_b = gaussian_filter(b * b, **window) - mean_b**2
    covariance = gaussian_filter(a * b, **window) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    likeness /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return float(likeness[5:-5, 5:-5].mean())


def frames(suite: str, index: int, profile: str) -> tuple[Frames, np.ndarray]:
    """Every size and camera of a task under one profile, and the simulator state that they show."""
    from foundry_bench.envs.libero import LiberoEnv
    from foundry_bench.envs.render import Renderer
    from foundry_bench.envs.scene import render_profile

    env = LiberoEnv(index, suite, cameras=(), render_profile=profile)
    env.reset(seed=0, options={"init_state": 0})
    problem = env.simulation.problem
    found: Frames = {}
    for size in _SIZES:
        renderer = Renderer(problem.model, render_profile(profile), size)
        for camera in _CAMERAS:
            found[size, camera] = renderer.render(problem.model, problem.data, camera)
        renderer.close()
    return found, problem.state()


def compare(suite: str, index: int) -> tuple[Frames, Frames]:
    """Frames of a task under both profiles, of one and the same state."""
    exact, state = frames(suite, index, "exact")
    fast, other = frames(suite, index, "fast")
    assert np.array_equal(state, other), f"{suite}/{index}: physics differs between the profiles"
    return exact, fast


def table(pairs: dict[str, list[tuple[Frames, Frames]]]) -> str:
    """Markdown: a line per suite and camera."""
    head = ["suite", "camera", *(f"{name} at {size} px" for size in _SIZES for name in ("PSNR", "SSIM"))]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    everything = [pair for members in pairs.values() for pair in members]
    for suite, members in [*pairs.items(), ("all", everything)]:
        for camera in _CAMERAS:
            lines.append([suite, camera, *cells(members, camera)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(members: list[tuple[Frames, Frames]], camera: str) -> Iterator[str]:
    """Mean and lowest PSNR and SSIM of some tasks at each size."""
    for size in _SIZES:
        noise = [psnr(exact[size, camera], fast[size, camera]) for exact, fast in members]
        likeness = [ssim(exact[size, camera], fast[size, camera]) for exact, fast in members]
        yield f"{np.mean(noise):.1f} ({min(noise):.1f})"
        yield f"{np.mean(likeness):.3f} ({min(likeness):.3f})"


def picture(named: dict[str, tuple[Frames, Frames]]) -> Any:
    """A row per name; for each camera exact, fast and their difference. A PIL image."""
    from PIL import Image, ImageDraw

    size = max(_SIZES)
    sheet = Image.new("RGB", (6 * size, _MARGIN + len(named) * (size + _MARGIN)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, (exact, fast)) in enumerate(named.items()):
        top = _MARGIN + row * (size + _MARGIN)
        pen.text((4, top + 4), name, fill="black")
        for number, camera in enumerate(_CAMERAS):
            a, b = exact[size, camera], fast[size, camera]
            difference = np.abs(a.astype(np.int16) - b) * _AMPLIFIED
            columns = {
                "exact": a,
                "fast": b,
                f"difference, {_AMPLIFIED} times": difference.clip(0, 255).astype(np.uint8),
            }
            for place, (label, image) in enumerate(columns.items(), 3 * number):
                coarse = image & 0xFC | 2  # 64 levels: nobody sees it, and the file is half as large
                sheet.paste(Image.fromarray(coarse), (place * size, top + _MARGIN))
                if row == 0:
                    pen.text((place * size + 4, 4), f"{camera}, {label}", fill="black")
    return sheet


def main() -> None:
    """Parse the command line, draw, compare."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--suites", nargs="+", default=_SUITES)
    parser.add_argument("--tasks", nargs="+", type=int, default=[0, 5])
    parser.add_argument("--picture", type=Path, default=Path("docs/images/fast_against_exact.png"))
    parser.add_argument("--every-task", action="store_true", help="a row of the picture for every task")
    parser.add_argument("--write", type=Path, help="put the table into this page")
    arguments = parser.parse_args()
    runtime.prepare_rendering()
    pairs = {suite: [compare(suite, index) for index in arguments.tasks] for suite in arguments.suites}
    text = table(pairs)
    about = f"Tasks {', '.join(map(str, arguments.tasks))} of each suite; mean (lowest); PSNR in dB."
    print(f"{about}\n\n{text}")
    shown = len(arguments.tasks) if arguments.every_task else 1
    named = {
        f"{suite} task {index}": pair
        for suite, members in pairs.items()
        for index, pair in list(zip(arguments.tasks, members, strict=True))[:shown]
    }
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    picture(named).save(arguments.picture, optimize=True)
    if arguments.write:
        write_section(arguments.write, "render quality", f"{about}\n\n{text}")


if __name__ == "__main__":
    main()
