"""Demonstrations per minute: planned, simulated, drawn and written, with every core of this machine.

    python benchmarks/demonstrations.py
    python benchmarks/demonstrations.py suite=libero_goal demos.per_task=12 protocol.image_size=256

Collects with `foundry-bench demos` into empty folders, twice: one demonstration a task, so that scenes are
compiled and in the cache, then as many as asked (6). What is timed is the second command as a whole: start of
Python and simulators, failed attempts, pictures and table of the overview are in it. Words are those of the
command; by default two tasks of each of the four suites (scale quick), two 128 px cameras, PNG.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from foundry_bench import runtime

USUAL = ("suite=libero", "protocol.image_size=128", "demos.per_task=6")


def collect(words: list[str], folder: Path) -> float:
    """Seconds that the command takes."""
    paths = [f"paths.results={folder}", f"paths.data={folder / 'data'}"]
    command = [sys.executable, "-m", "foundry_bench", "demos", *words, *paths]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Collect, count, print."""
    given = sys.argv[1:]
    if {"-h", "--help"} & set(given):
        print(__doc__)
        return
    words = [*(word for word in USUAL if word.split("=")[0] not in {w.split("=")[0] for w in given}), *given]
    with tempfile.TemporaryDirectory() as place:
        collect([*words, "demos.per_task=1"], Path(place) / "warm")
        seconds = collect(words, Path(place) / "timed")
        (path,) = (Path(place) / "timed").glob("*/demos/demonstrations.csv")
        table = pd.read_csv(path)
        files = [file for file in (Path(place) / "timed" / "data").rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 2**20
    kept, attempts = int(table["kept"].sum()), int(table["attempts"].sum())
    frames = round(float((table["kept"] * table["mean_length"]).sum()))
    print(f"{' '.join(words)}; {runtime.cores()} cores")
    print(f"{kept} demonstrations ({attempts} attempts, {frames} frames, {size:.0f} MiB) in {seconds:.0f} s:")
    print(f"{60 * kept / seconds:.1f} a minute, {frames / seconds:.0f} frames a second")


if __name__ == "__main__":
    main()
