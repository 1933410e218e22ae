"""Several processes learn what one learns: DDP and FSDP2 on the CPU, started by torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foundry_bench.errors import FoundryError
from foundry_bench.policies.checkpoint import load_checkpoint
from foundry_bench.training.distributed import World, joined, wrapped_loss
from foundry_bench.training.state import load_state

ROOT = Path(__file__).parents[2]
# Seen: 4e-7 in 16 steps. Sums are taken in another order, and a step's rounding is passed on to the next.
LOSS = 1e-5
WEIGHTS = 1e-4  # Muon makes a direction of unit size out of whatever small number it is given
# On a machine with other work to do, every process takes its minute to import torch. The limits are for what
# hangs: torchrun's own, of 30 seconds from SIGTERM to SIGKILL, is not.
PATIENCE = 600
pytestmark = pytest.mark.timeout(5 * PATIENCE)
#: What a job would take for its own where the tests themselves run under torchrun or a scheduler.
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def job(processes: int, out: Path, *words: str, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run tests.training.torchrun_job to its end."""
    line, environment = command(processes, out, *words, **changes)
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def command(processes: int, out: Path, *words: str, **changes: Any) -> tuple[list[str], dict[str, str]]:
    """The command line of a job, and its environment.

    The processes speak to each other over the loopback, whatever the machine's name resolves to, and on a
    port that torchrun is given by the system.
    """
    line = [sys.executable]
    if processes:
        line += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        line += ["--local-addr=127.0.0.1", f"--shutdown-timeout={PATIENCE}"]
    line += ["-m", "tests.training.torchrun_job", str(out), json.dumps(changes), *words]
    environment = {name: value for name, value in os.environ.items() if name not in _OF_TORCHRUN}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    return line, {**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def told(ended: subprocess.CompletedProcess[str]) -> str:
    """All that a job said. Its reason is what it said first: torchrun's summary is pages long."""
    return f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"


def done(processes: int, out: Path, *words: str, **changes: Any) -> Path:
    ended = job(processes, out, *words, **changes)
    assert ended.returncode == 0, told(ended)
    return out


def events(out: Path, event: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def assert_same(ours: Path, theirs: Path, loss: float = LOSS, weights: float = WEIGHTS) -> None:
    """Loss curves, gradient norms, validation and averaged weights agree."""
    for event, keys in (("train", ("loss", "gradient_norm")), ("validation", ("action_error",))):
        a, b = events(ours, event), events(theirs, event)
        assert [line["step"] for line in a] == [line["step"] for line in b] != []
        for key in keys:
            assert [line[key] for line in a] == pytest.approx([line[key] for line in b], rel=loss, abs=loss)
    a_weights, b_weights = (load_checkpoint(out / "checkpoint").weights for out in (ours, theirs))
    for name, tensor in a_weights.items():
        torch.testing.assert_close(tensor, b_weights[name], rtol=weights, atol=weights, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done(0, tmp_path_factory.mktemp("alone") / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "parallel"), [(2, "ddp"), (2, "fsdp"), (3, "fsdp")])
def test_processes_learn_what_one_learns(tmp_path: Path, alone: Path, processes: int, parallel: str) -> None:
    """Three share neither the batch nor the rows of matrices evenly."""
    out = done(processes, tmp_path / parallel, parallel=parallel)
    assert_same(out, alone)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_parts_recomputing_and_a_mixture_go_together(tmp_path: Path, parallel: str) -> None:
    common = {"optimizer": "adamw", "freeze": ["stems"], "freeze_until": 64, "schedule": "wsd"}
    theirs = done(0, tmp_path / "alone", "--mixed", **common)
    ours = done(
        2, tmp_path / "two", "--mixed", **common, parallel=parallel, accumulate=2, checkpoint_activations=True
    )
    assert_same(ours, theirs)
    assert {key for line in events(ours) for key in line if key.startswith("loss/")} == {
        "loss/robot",
        "loss/text",
    }


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes(tmp_path: Path, alone: Path) -> None:
    """One process, two with DDP, two with FSDP, and one again, each taking up what the one before left."""
    out = tmp_path / "run"
    for processes, parallel, stop in ((0, "none", 3), (2, "ddp", 6), (2, "fsdp", 9), (2, "fsdp", 11)):
        ended = job(processes, out, "--stop-at", str(stop), parallel=parallel)
        assert "asked to stop (SIGTERM)" in ended.stderr, told(ended)
        assert ended.returncode == (1 if processes else 143), told(ended)  # torchrun has a code of its own
        state = load_state(out / "state")
        assert state is not None
        assert state.step == stop + 1
        assert (out / "state" / "trainer.safetensors").exists() == (parallel != "fsdp")
    done(0, out)
    assert_same(out, alone)


@pytest.mark.slow
def test_a_signal_to_torchrun_reaches_all_and_is_heeded(tmp_path: Path) -> None:
    """As a scheduler does before it takes the machine away."""
    out = tmp_path / "run"
    line, environment = command(2, out, "--slow", parallel="fsdp")
    torchrun = subprocess.Popen(
        line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert torchrun.stdout is not None
    assert torchrun.stdout.readline() == "under way\n"
    torchrun.send_signal(signal.SIGTERM)
    _, said = torchrun.communicate(timeout=PATIENCE)
    assert torchrun.returncode != 0, said
    assert "asked to stop (SIGTERM) at step" in said, said
    state = load_state(out / "state")
    assert state is not None
    assert 2 <= state.step < 16


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_process_leaves_the_state_of_all(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = job(2, out, "--full-after", "1", parallel="fsdp", save_every=64)
    assert ended.returncode != 0, told(ended)
    assert "No space left on device; the one saved before is kept" in ended.stderr, told(ended)
    state = load_state(out / "state")
    assert state is not None
    assert state.step == 4
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint",
        "state",
        "tensorboard",
        "train.jsonl",
    ]


@pytest.mark.slow
def test_bf16_weights_are_sharded_with_fp32_masters(tmp_path: Path, alone: Path) -> None:
    out = done(2, tmp_path / "bf16", parallel="fsdp", precision="bf16")
    rough, exact = ([line["loss"] for line in events(run)] for run in (out, alone))
    assert rough == pytest.approx(exact, rel=0.05)
    assert rough != pytest.approx(exact, rel=1e-5)
    assert {each.dtype for each in load_checkpoint(out / "checkpoint").weights.values()} == {torch.float32}


@pytest.mark.slow
def test_several_processes_without_a_way_to_share_are_refused(tmp_path: Path) -> None:
    ended = job(2, tmp_path / "none")
    assert (
        "train.parallel=none, but torchrun started 2 processes; use train.parallel=ddp or fsdp"
        in ended.stderr
    )
    ended = job(2, tmp_path / "small", parallel="ddp", accumulate=9)
    assert "train.batch_size=16 cannot be shared by 2 processes with train.accumulate=9" in ended.stderr


def test_sharing_without_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(FoundryError, match="wants processes that torchrun starts: torchrun --nproc"),
        joined("ddp"),
    ):
        pass


class Peeked(nn.Module):
    """A block whose weight is also used without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.peek(x)

    def peek(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.linear.weight.sum()


class PeekedWithTheRest(Peeked):
    sharded_with_the_rest = True


@pytest.mark.parametrize("block", [Peeked, PeekedWithTheRest])
def test_weights_that_are_used_otherwise_are_refused_or_stay_with_the_model(block: type[Peeked]) -> None:
    class PeekingStage:
        model = nn.ModuleDict({"blocks": nn.ModuleList([block(), block()])})

        def loss(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
            first, second = self.model["blocks"]  # type: ignore[misc]
            return first.peek(second(batch["x"])).sum()

    stage = PeekingStage()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        loss = wrapped_loss(stage, stage.loss, World(torch.device("cpu"), "fsdp"), "fp32")  # type: ignore[arg-type]
        batch = {"x": torch.ones(2, 4)}
        if block is Peeked:
            with pytest.raises(
                FoundryError, match=r"use train\.parallel=ddp, or say so in the block's class"
            ):
                loss(batch, torch.Generator())
        else:
            loss(batch, torch.Generator()).backward()
            assert all(each.linear.weight.grad is not None for each in stage.model["blocks"])  # type: ignore[union-attr]
    finally:
        torch.distributed.destroy_process_group()


def test_rows_are_shared_without_overlap_or_gap() -> None:
    for size in (1, 2, 3, 5):
        shares = [World(torch.device("cpu"), "ddp", rank, size).rows(32) for rank in range(size)]
        assert [row for share in shares for row in range(share.first, share.stop)] == list(range(32))
        for share in shares:
            parts = share.divide(3)
            assert (parts[0].first, parts[-1].stop) == (share.first, share.stop)
            assert all(part.stop > part.first for part in parts)
