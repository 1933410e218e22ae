"""What an experiment folder remembers, also when the process is killed."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from foundry_bench.configs.compose import compose, differences, flatten
from foundry_bench.errors import FoundryError
from foundry_bench.sweeps import state as state_module
from foundry_bench.sweeps.state import ExperimentState, fingerprint, load_config, only_one, remember_config


def test_finished_phase_is_known_to_the_next_process(tmp_path: Path) -> None:
    with ExperimentState(tmp_path).running("demos", "abc") as output:
        output["kept"] = 3
    state = ExperimentState(tmp_path)
    assert state.finished("demos", "abc") == {"kept": 3}
    assert state.finished("demos", "other inputs") is None
    assert state.finished("train", "abc") is None


def test_interrupted_phase_is_not_finished_and_its_seconds_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]  # a clock of its own: the machine may be busy
    monkeypatch.setattr(state_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), ExperimentState(tmp_path).running("train", "abc"):
            now[0] += 0.15
            raise KeyboardInterrupt
    state = ExperimentState(tmp_path)
    assert state.finished("train", "abc") is None
    assert state.seconds()["train"] >= 0.3
    with state.running("train", "other inputs"):
        pass
    assert state.seconds()["train"] < 0.1


def test_phase_that_asks_for_it_is_run_again(tmp_path: Path) -> None:
    state = ExperimentState(tmp_path)
    with state.running("eval", "abc") as output:
        output["again"] = 2
    assert state.finished("eval", "abc") is None
    assert state.output("eval") == {"again": 2}


def test_kill_leaves_a_readable_state_with_the_seconds_so_far(tmp_path: Path) -> None:
    code = (
        "import pathlib, time; from foundry_bench.sweeps import state; state._BEAT_S = 0.05\n"
        f"with state.ExperimentState(pathlib.Path({str(tmp_path)!r})).running('train', 'abc'):\n"
        "    print('running', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    state = ExperimentState(tmp_path)
    assert state.finished("train", "abc") is None
    assert 0.2 < state.seconds()["train"] < 5
    with only_one(tmp_path / ".lock"):  # and nobody holds the folder
        pass


def test_full_disk_does_not_hide_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    state = ExperimentState(tmp_path)
    with pytest.raises(FoundryError, match="first"), state.running("demos", "abc"):
        monkeypatch.setattr(state_module, "atomic_write", full)
        raise FoundryError("first")
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space"), state.running("demos", "abc"):
        monkeypatch.setattr(state_module, "atomic_write", full)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"phases": 3}', '{"phases": {"demos": {}}}', "{}"])
def test_unreadable_state_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(FoundryError, match=r"state\.json: not readable"):
        ExperimentState(tmp_path)


def test_second_process_is_refused(tmp_path: Path) -> None:
    with only_one(tmp_path / ".lock"), pytest.raises(FoundryError, match="another foundry-bench"):  # noqa: SIM117
        with only_one(tmp_path / ".lock"):
            pass
    with only_one(tmp_path / ".lock"):
        pass


def test_folder_keeps_to_its_configuration(tmp_path: Path) -> None:
    remember_config(tmp_path, compose(["experiment=mine"]))
    remember_config(tmp_path, compose(["experiment=mine", "device=cpu", "eval.workers=1"]))
    assert load_config(tmp_path / "config.yaml").train.batch_size == 32
    usual = compose([]).demos.per_task
    with pytest.raises(FoundryError, match=rf"made with demos\.per_task={usual}, not 7 \(and 1 more\)"):
        remember_config(tmp_path, compose(["experiment=mine", "demos.per_task=7", "train.batch_size=4"]))


def saved_before_there_were_stages(folder: Path, *words: str) -> None:
    """The configuration of an experiment as the first version wrote it."""
    config = OmegaConf.to_container(compose([*words, "experiment=mine"]), resolve=True)
    assert isinstance(config, dict)
    for section in ("pretrain", "stage", "cotrain", "llm", "vlm"):
        del config[section]
    del config["paths"]["stages"], config["model"]["architecture"], config["model"]["vision"]
    del config["train"]["schedule"]
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))


@pytest.mark.parametrize(
    "words",
    [
        [], ["seed=5"], ["suite=libero_goal", "scale=paper"], ["protocol=libero_openpi", "model.horizon=10"],
        ["tasks=[1]", "suite=libero_goal", "train.samples=64"],
    ],
)  # fmt: skip
def test_a_folder_from_before_there_were_stages_is_gone_on_with(words: list[str], tmp_path: Path) -> None:
    saved_before_there_were_stages(tmp_path, *words)
    before = (tmp_path / "config.yaml").read_text()
    remember_config(tmp_path, compose([*words, "experiment=mine"]))
    remember_config(tmp_path, compose([*words, "experiment=mine", "llm.samples=7"]))  # which nothing reads
    assert (tmp_path / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("pretrain=[llm]", r"made with pretrain=\[\], not \[llm\]"),
        ("cotrain.text=0.5", r"made with cotrain\.text=0\.0, not 0\.5"),
        ("model.vision=vit", r"made with model\.vision=stem, not vit"),
        ("train.schedule=wsd", r"made with train\.schedule=cosine, not wsd"),
        ("model=act", r"made with model\.name=vla-flow, not act"),
        ("seed=6", r"made with seed=0, not 6"),
    ],
)
def test_such_a_folder_had_the_defaults_of_keys_that_are_new(word: str, said: str, tmp_path: Path) -> None:
    saved_before_there_were_stages(tmp_path)
    with pytest.raises(FoundryError, match=said):
        remember_config(tmp_path, compose([word, "experiment=mine"]))


@pytest.mark.parametrize("words", [[], ["seed=3"], ["protocol.image_size=48"]])
def test_the_name_of_an_experiment_does_not_move_with_sections_that_nothing_reads(words: list[str]) -> None:
    """So that the same command line finds the folder that an older version made."""
    followers = ("llm.seed", "vlm.seed", "captions.seed", "captions.image_size")
    config = compose(words)
    moved = differences(flatten(compose([])), flatten(config))
    assert not set(followers) & set(moved)
    asked = compose([*words, "pretrain=[vlm]"])
    assert ("vlm.seed" in differences(flatten(compose([])), flatten(asked))) == (words == ["seed=3"])


@pytest.mark.parametrize("text", ["a: [", "- 1", "a: 1"])
def test_damaged_configuration_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(FoundryError, match=r"config\.yaml"):
        load_config(tmp_path / "config.yaml")


def test_fingerprint_is_of_the_content() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    assert len(fingerprint([])) == 12


def test_state_file_is_plain_json(tmp_path: Path) -> None:
    with ExperimentState(tmp_path).running("demos", "abc"):
        pass
    assert json.loads((tmp_path / "state.json").read_text())["phases"]["demos"]["finished"] is True
    assert state_module._BEAT_S <= 5
