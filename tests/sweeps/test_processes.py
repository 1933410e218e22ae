"""``foundry-bench train`` under torchrun: one process keeps the experiment, all train."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foundry_bench import runtime
from foundry_bench.configs.compose import compose
from foundry_bench.errors import FoundryError
from foundry_bench.sweeps.processes import Onlooker, training_together
from foundry_bench.sweeps.state import ExperimentState

ROOT = Path(__file__).resolve().parents[2]
WORDS = [
    *("train", "suite=libero_goal", "scale=smoke", "tasks=[1]", "protocol.image_size=64"),
    *("train.samples=32", "train.batch_size=4", "experiment=shared", "device=cpu"),
    f"demos.root={ROOT / 'tests' / 'data' / 'made_by_lerobot' / 'images'}",
    "data.cameras={agentview:image,wrist:image2}",
]


def under_torchrun(here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, "-m", "foundry_bench", *WORDS, *words],
        cwd=here, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_an_experiment_is_trained_by_two_processes_and_not_again(here: Path) -> None:
    first = under_torchrun(here, "train.parallel=ddp")
    assert first.returncode == 0, first.stderr[-3000:]
    assert first.stdout.count("files: ") == 1  # one of them speaks
    weights = here / "results" / "shared" / "train" / "checkpoint" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    state = ExperimentState(here / "results" / "shared")
    assert state.output("train") is not None
    again = under_torchrun(here, "train.parallel=fsdp")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "finished earlier" in again.stdout
    assert weights.stat().st_mtime_ns == made


@pytest.mark.slow
def test_without_parallel_it_says_what_to_set(here: Path) -> None:
    refused = under_torchrun(here)
    assert refused.returncode != 0
    assert "train.parallel=none, but torchrun started 2 processes" in refused.stderr


@pytest.mark.slow
def test_two_processes_train_every_stage_as_one_does(here: Path) -> None:
    """Both begin each stage with the checkpoint that the first one saved, its tokenizer among it."""
    notes = "\n\n".join(
        f"Put the bowl number {n} on the plate, then open drawer {n % 7}." for n in range(300)
    )
    (here / "notes.txt").write_text(notes)
    words = [
        *("model=foundry_nano", "model.layers=1", "pretrain=[llm]", "cotrain.text=1", "llm.block=16"),
        *("llm.samples=16", "llm.batch_size=4", "llm.log_every=4", "train.log_every=4", "train.shift=0"),
        "llm.corpora={notes: {path: notes.txt, document: paragraph}}",
    ]
    for where, run in (("two", under_torchrun), ("one", alone)):
        ended = run(
            here, *words, "train.parallel=" + ("ddp" if where == "two" else "none"), f"paths.results={where}"
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert ended.stdout.count("files: ") == 1
    for name in ("stages/*/train.jsonl", "shared/train/train.jsonl"):
        two, one = (losses(next(here.glob(f"{where}/{name}"))) for where in ("two", "one"))
        assert len(one) > 3
        assert two == pytest.approx(one, rel=1e-4)
    tokenizers = {path.read_text() for path in here.glob("two/**/checkpoint/tokenizer.json")}
    assert len({json.dumps(json.loads(text)["model"]) for text in tokenizers}) == 1


def alone(here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "foundry_bench", *WORDS, *words],
        cwd=here, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def losses(log: Path) -> list[float]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "train"]


def test_alone_nothing_is_joined() -> None:
    with training_together(compose([]), {"root": "x"}) as told:
        assert told == {"root": "x"}


def test_several_processes_need_a_way_to_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert runtime.processes() == 2
    with pytest.raises(FoundryError, match="torchrun started 2 processes"), training_together(compose([])):
        pass


def test_threads_are_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert runtime.training_threads() == max(1, runtime.cores() // 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert runtime.training_threads() == 1


def test_an_onlooker_writes_nothing(tmp_path: Path) -> None:
    with Onlooker(tmp_path).running("train", "inputs") as output:
        output["checkpoint"] = "x"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_heeds_a_signal(here: Path) -> None:
    words = [word.replace("samples=32", "samples=4000") for word in WORDS]
    command = [sys.executable, "-m", "foundry_bench", *words, "train.save_every=100000", "train.log_every=4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(command, cwd=here, env=environment, stderr=subprocess.PIPE, text=True)
    log = here / "results" / "shared" / "train" / "train.jsonl"
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 143, said[-3000:]
    assert "the same command goes on from there" in said
    assert ExperimentState(here / "results" / "shared").finished("train", "any") is None
    progress = json.loads((log.parent / "state" / "trainer.json").read_text())
    assert 0 < progress["step"] < 1000
