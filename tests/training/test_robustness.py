"""What ends a run leaves it fit to go on, and says how."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.storage import folder_replaced, read_tensors, write_folder
from foundry_bench.training import interrupt
from foundry_bench.training.interrupt import StopRequest, TerminatedError
from foundry_bench.training.loop import Trainer, train
from foundry_bench.training.meter import Update
from foundry_bench.training.vla_stage import VLAStage
from tests.training.toy import TINY, TINY_TRAIN, ToyDataset

SHORT = replace(TINY_TRAIN, samples=256)
CHILD = """
import sys, time, torch
from dataclasses import replace
from pathlib import Path
from foundry_bench.errors import FoundryError
from foundry_bench.training import loop
from tests.training.toy import TINY, TINY_TRAIN, ToyDataset

torch.set_num_threads(1)
update = loop.Trainer.update
def slow(self, batch):
    if self.step == 5:
        print("under way", flush=True)
    time.sleep(0.05)
    return update(self, batch)
loop.Trainer.update = slow
config = replace(TINY_TRAIN, samples=256, save_every=10_000)
try:
    loop.train(config, TINY, ToyDataset(), Path(sys.argv[1]), device="cpu", progress=False)
except FoundryError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_sigterm_saves_says_how_to_go_on_and_loses_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path / "killed")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "under way\n"
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 143, said
    assert "asked to stop (SIGTERM) at step" in said
    assert "the same command goes on from there" in said
    stopped = json.loads((tmp_path / "killed" / "state" / "trainer.json").read_text())["step"]
    assert 5 <= stopped < 16
    config = replace(SHORT, save_every=10_000)
    for out in ("killed", "whole"):
        train(config, TINY, ToyDataset(), tmp_path / out, device="cpu", progress=False)
    ours, theirs = (tmp_path / out / "checkpoint" / "model.safetensors" for out in ("killed", "whole"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_stop_request_puts_the_handler_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 5
        while not stop.asked and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop.asked
    assert signal.getsignal(signal.SIGTERM) == before
    assert TerminatedError.exit_code == 143


def test_one_request_may_come_twice_and_a_later_one_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from Slurm, which signals torchrun and what torchrun started, to which torchrun hands it on."""
    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert _soon(lambda: stop.asked)
            time.sleep(0.05)
            assert not ended
            monkeypatch.setattr(interrupt, "ONE_REQUEST", 0.0)
            os.kill(os.getpid(), signal.SIGTERM)
            assert _soon(lambda: bool(ended))
    finally:
        signal.signal(signal.SIGTERM, before)


def _soon(happened: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)
    return happened()


def test_a_run_stopped_between_two_lines_of_its_log_writes_the_lines_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    config = replace(SHORT, log_every=64, save_every=10_000)  # a line is the mean of four steps
    update = Trainer.update

    def stopped(self: Trainer, batch: dict[str, torch.Tensor]) -> Update:
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, batch)

    def lines(out: Path) -> list[tuple[float, ...]]:
        read = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
        return [(line["step"], line["loss"], line["gradient_norm"]) for line in read]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TerminatedError):
        patch.setattr(Trainer, "update", stopped)
        train(config, TINY, ToyDataset(), tmp_path / "twice", device="cpu", progress=False)
    assert len(json.loads((tmp_path / "twice" / "state" / "trainer.json").read_text())["unlogged"]) == 2
    for out in ("twice", "whole"):
        train(config, TINY, ToyDataset(), tmp_path / out, device="cpu", progress=False)
    assert lines(tmp_path / "twice") == lines(tmp_path / "whole")
    assert len(lines(tmp_path / "whole")) == 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried"),
    ],
)
def test_running_out_of_memory_names_the_ways_out(tmp_path: Path, error: Exception) -> None:
    plain = VLAStage.loss
    calls = 0

    def greedy(self: VLAStage, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise error
        return plain(self, batch, generator)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLAStage, "loss", greedy)
        with pytest.raises(
            FoundryError, match=r"memory .*holds step 8; train.accumulate=2 takes the same steps"
        ):
            train(SHORT, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    # The way out that it names goes on in the same folder.
    train(replace(SHORT, accumulate=2), TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    assert json.loads((tmp_path / "state" / "trainer.json").read_text())["step"] == 16


def test_other_errors_are_handed_on(tmp_path: Path) -> None:
    def broken(self: VLAStage, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLAStage, "loss", broken)
        with pytest.raises(RuntimeError, match="shapes cannot"):
            train(SHORT, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)


def test_a_broken_batch_is_named_by_its_frames_and_rows(tmp_path: Path) -> None:
    plain = VLAStage.batch

    def poisoned(self: VLAStage, step: int) -> dict[str, torch.Tensor]:
        batch = plain(self, step)
        if step == 3:
            batch["state"][5, 0] = float("nan")
        return batch

    stage = VLAStage(SHORT, TINY, ToyDataset())  # type: ignore[arg-type]
    frames = stage.describe(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLAStage, "batch", poisoned)
        with pytest.raises(FoundryError) as caught:
            train(SHORT, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    assert f"the batch: {frames}; not finite are 'state' in rows 5 of it" in str(caught.value)


def test_the_best_of_a_measure_is_kept_across_a_restart(tmp_path: Path) -> None:
    values = iter([0.5, 0.3, 0.4, 0.6])
    config = replace(
        SHORT, validate_every=64, save_every=128, keep_best="action_error", validation_episodes=2
    )
    kept: dict[int, bytes] = {}

    def measured(self: VLAStage, averaged: nn.Module) -> Mapping[str, float]:
        value = next(values)
        kept[len(kept)] = averaged.state_dict()["expert.output.weight"].numpy().tobytes()
        if value == 0.6 and len(kept) == 4:
            raise RuntimeError("the machine is gone")
        return {"action_error": value}

    def best() -> bytes:
        return read_tensors(tmp_path / "best" / "model.safetensors")["expert.output.weight"].numpy().tobytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLAStage, "validate", measured)
        with pytest.raises(RuntimeError, match="gone"):
            train(config, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
        assert best() == kept[1]
        values = iter([0.35, 0.2])  # step 12 again, then 16
        train(config, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    assert len(kept) == 6
    assert best() == kept[5]
    assert json.loads((tmp_path / "state" / "trainer.json").read_text())["best"] == 0.2


def test_a_measure_that_is_not_taken_is_named(tmp_path: Path) -> None:
    config = replace(SHORT, keep_best="action_eror", validation_episodes=2, validate_every=64)
    with pytest.raises(
        FoundryError, match=r"keep_best=action_eror is no measure.*did you mean 'action_error'"
    ):
        train(config, TINY, ToyDataset(), tmp_path / "a", device="cpu", progress=False)
    with pytest.raises(FoundryError, match=r"nothing is held out; set train\.validation_episodes"):
        train(
            replace(config, validation_episodes=0), TINY, ToyDataset(), tmp_path / "b", "cpu", progress=False
        )


@pytest.mark.parametrize("name", ["gripper_accuracy", "captions/qa_colour"])
def test_more_is_better_of_accuracies(tmp_path: Path, name: str) -> None:
    values = iter([0.5, 0.9, 0.7, 0.8])
    config = replace(SHORT, validate_every=64, keep_best=name, validation_episodes=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLAStage, "validate", lambda self, averaged: {name: next(values)})
        train(config, TINY, ToyDataset(), tmp_path, device="cpu", progress=False)
    assert json.loads((tmp_path / "state" / "trainer.json").read_text())["best"] == 0.9


def test_a_write_that_fails_half_way_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    write_folder(folder, {"a": b"old", "b": b"old"})
    words = "No space left on device; the one saved before is kept"
    with pytest.raises(FoundryError, match=words), folder_replaced(folder) as new:
        (new / "a").write_bytes(b"new")
        raise OSError(28, "No space left on device")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a": b"old", "b": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
