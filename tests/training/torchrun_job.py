"""What the tests of several processes run, alone or under torchrun: a tiny training, stopped where asked.

python -m tests.training.torchrun_job OUT '{"parallel": "ddp"}' [--mixed] [--model CHANGES] [--stop-at STEP]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foundry_bench.errors import FoundryError
from foundry_bench.training.loop import train
from foundry_bench.training.meter import Update
from foundry_bench.training.stage import Batch
from foundry_bench.training.trainer import Trainer
from tests.training.sources import train_mixed
from tests.training.toy import TINY, TINY_TRAIN, ToyDataset

BASE = replace(TINY_TRAIN, samples=256, log_every=16, validation_episodes=2, validate_every=128)


def stop_at(step: int) -> None:
    """Let the last process, and no other, get a SIGTERM in a step."""
    update = Trainer.update

    def terminated(self: Trainer, batch: Batch) -> Update:
        if self.step == step and os.environ.get("RANK", "0") == str(
            int(os.environ.get("WORLD_SIZE", "1")) - 1
        ):
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, batch)

    Trainer.update = terminated  # type: ignore[method-assign]


def fill_the_disk_after(saves: int) -> None:
    """Let the last process, and no other, find the disk full when it has written its shards some times."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    write = HuggingFaceStorageWriter.write_data
    done = 0

    def fills_up(self: Any, plan: Any, planner: Any) -> Any:
        nonlocal done
        done += 1
        if done > saves and os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
            raise OSError(28, "No space left on device")
        return write(self, plan, planner)

    HuggingFaceStorageWriter.write_data = fills_up


def go_slowly() -> None:
    """Leave time for a signal from outside, and say when training is under way.

    One process speaks, for all of them: two write into one pipe, and their lines get mixed up.
    """
    update = Trainer.update

    def slow(self: Trainer, batch: Batch) -> Update:
        if self.step == 2 and self.world.writes:
            print("under way", flush=True)
        time.sleep(0.3)
        return update(self, batch)

    Trainer.update = slow  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("changes", type=json.loads)
    parser.add_argument("--model", type=json.loads, default={})
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--full-after", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.full_after is not None:
        fill_the_disk_after(arguments.full_after)
    if arguments.slow:
        go_slowly()
    if arguments.stop_at is not None:
        stop_at(arguments.stop_at)
    config = replace(BASE, **arguments.changes)
    try:
        if arguments.mixed:
            train_mixed(config, arguments.out)
        else:
            model = replace(TINY, **arguments.model)
            train(config, model, ToyDataset(), arguments.out, device="cpu", progress=False)  # type: ignore[arg-type]
    except FoundryError as error:
        print(f"FoundryError: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
