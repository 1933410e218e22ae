from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foundry_bench.envs.service import EpisodeService, check_frames
from foundry_bench.envs.starts import episode_seed
from foundry_bench.errors import FoundryError

_SETTINGS = {
    "cameras": ["agentview", "wrist"],
    "image_size": 48,
    "engine": "native",
    "render_profile": "fast",
    "wait_steps": 2,
    "max_steps": {"libero_object": 12},
}
_DOWN = np.tile([0.1, 0, -0.5, 0, 0, 0.2, 1.0], (5, 1))


@pytest.fixture(scope="module")
def service() -> EpisodeService:
    return EpisodeService(_SETTINGS)


def test_slots_do_not_disturb_each_other(service: EpisodeService) -> None:
    service.start(0, "libero_object", 3, 0, seed=7)
    alone = service.advance(0, _DOWN)["observation"]
    service.start(0, "libero_object", 3, 0, seed=7)
    service.start(1, "libero_object", 3, 1, seed=7)
    service.advance(1, -_DOWN)
    beside = service.advance(0, _DOWN)["observation"]
    for name in ("agentview", "wrist", "state"):
        np.testing.assert_array_equal(alone[name], beside[name])


def test_an_episode_ends_at_its_budget(service: EpisodeService) -> None:
    service.start(0, "libero_object", 3, 0, seed=7)
    assert not service.advance(0, _DOWN)["done"]
    assert not service.advance(0, _DOWN)["done"]
    last = service.advance(0, _DOWN)
    assert (last["done"], last["success"], last["steps"], last["observation"]) == (True, False, 12, None)
    with pytest.raises(KeyError):
        service.advance(0, _DOWN)


def test_a_video_is_finished_with_its_episode(service: EpisodeService, tmp_path: Path) -> None:
    import av

    service.start(0, "libero_object", 3, 0, seed=7, video=str(tmp_path / "deep" / "video.mp4"))
    for _ in range(3):
        answer = service.advance(0, _DOWN)
    with av.open(answer["video"]) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "h264"
    assert len(frames) == 1 + 12 // 2
    assert frames[0].shape == (48, 96, 3)
    assert frames[0].std() > 5


def test_a_dropped_episode_leaves_a_video_that_can_be_read(service: EpisodeService, tmp_path: Path) -> None:
    import av

    service.start(0, "libero_object", 3, 0, seed=7, video=str(tmp_path / "video.mp4"))
    service.drop(0)
    service.drop(0)
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert len(list(container.decode(video=0))) == 1


def test_a_suite_without_a_budget_is_refused(service: EpisodeService) -> None:
    with pytest.raises(FoundryError, match=r"protocol\.max_steps\.libero_goal"):
        service.start(0, "libero_goal", 1, 0, seed=7)


def test_a_blank_camera_is_refused(service: EpisodeService) -> None:
    observation = service.start(0, "libero_object", 3, 0, seed=7)
    simulation = service._slots[0].simulation
    check_frames(observation, simulation)
    with pytest.raises(FoundryError, match=r"'wrist'.*blank"):
        check_frames({**observation, "wrist": np.full((48, 48, 3), 7, np.uint8)}, simulation)


def test_episode_seeds_differ_and_repeat() -> None:
    seeds = {episode_seed(7, key, index) for key in ("a-00", "a-01") for index in range(50)}
    assert len(seeds) == 100
    assert episode_seed(7, "a-00", 3) == episode_seed(7, "a-00", 3)
    assert all(0 <= seed < 2**32 for seed in seeds)
