"""Training on a dataset that the real lerobot package made, with its own names of our cameras."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundry_bench import cli
from foundry_bench.configs.compose import compose
from foundry_bench.errors import FoundryError
from foundry_bench.sweeps.demonstrations import cameras_of
from foundry_bench.sweeps.sections import camera_names

MADE = Path(__file__).resolve().parent.parent / "data" / "made_by_lerobot"
NAMES = "data.cameras={agentview:image,wrist:image2}"
SMALL = ["suite=libero_goal", "protocol.image_size=64", "train.samples=8", "train.batch_size=4"]

Capture = pytest.CaptureFixture[str]


def test_names_of_cameras() -> None:
    assert camera_names(compose([])) is None
    assert camera_names(compose([NAMES])) == {"agentview": "image", "wrist": "image2"}
    assert cameras_of(compose([])) == {"agentview": "agentview", "wrist": "wrist"}
    assert cameras_of(compose(["data.cameras={wrist:image2}"])) == {
        "agentview": "agentview",
        "wrist": "image2",
    }
    with pytest.raises(FoundryError, match=r"data\.cameras=\{'wrist': 2\}: names by our names"):
        camera_names(compose(["data.cameras={wrist:2}"]))
    with pytest.raises(FoundryError, match="'front' is no camera of the protocol, which has"):
        cameras_of(compose(["data.cameras={front:image}"]))
    with pytest.raises(FoundryError, match=r"data\.cameras takes a mapping"):
        compose(["data.cameras=image"])


def test_names_of_cameras_make_another_experiment() -> None:
    assert compose([NAMES]).experiment != compose([]).experiment
    assert compose(["data.path=x", "data.out=y", "replay.mode=states"]).experiment == compose([]).experiment


@pytest.mark.parametrize("kind", ["images", "video"])
def test_it_is_trained_on(here: Path, capsys: Capture, kind: str) -> None:
    """Episodes are matched to tasks by their instruction: this one has two of task 1 and one of task 0."""
    given = [f"demos.root={MADE / kind}", "scale=smoke", "tasks=[1,2]", "train.validation_episodes=1"]
    assert cli.main(["train", *SMALL, *given, NAMES, "experiment=mine"]) == 0
    assert (here / "results/mine/train/checkpoint/model.safetensors").is_file()
    assert (
        f'libero_goal task 2, "put the wine bottle on top of the cabinet": no demonstrations in {MADE}'
        in " ".join(capsys.readouterr().out.split())
    )


def test_without_the_names_it_says_what_to_do(here: Path, capsys: Capture) -> None:
    assert cli.main(["train", *SMALL, f"demos.root={MADE / 'video'}"]) == 2
    said = capsys.readouterr().err
    assert "camera 'agentview' (observation.images.agentview) is missing, it has: image, image2" in said
    assert "data.cameras" in said
