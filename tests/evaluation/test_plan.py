"""Which worker gets which episode, and where noise comes from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_bench.errors import FoundryError
from foundry_bench.evaluation import Protocol
from foundry_bench.evaluation.plan import Episode, EpisodeQueue, plan
from tests.evaluation.fakes import tasks


def test_workers_keep_their_task_and_help_at_the_end() -> None:
    queue = EpisodeQueue(plan(tasks(3), Protocol(), 4))
    taken = [[queue.take(worker) for worker in (0, 1)] for _ in range(6)]
    assert [[episode.task_index for episode in pair if episode] for pair in taken] == [
        [0, 1],
        [0, 1],
        [0, 1],
        [0, 1],
        [2, 2],
        [2, 2],
    ]
    assert queue.take(0) is None
    assert len(queue) == 0


@given(st.integers(1, 4), st.integers(1, 5), st.lists(st.integers(0, 2), max_size=60))
def test_every_episode_is_handed_out_exactly_once(count: int, episodes: int, workers: list[int]) -> None:
    planned = plan(tasks(count), Protocol(), episodes)
    queue = EpisodeQueue(planned)
    taken: list[Episode] = []
    for turn, worker in enumerate(workers + [0] * len(planned) * 2):
        episode = queue.take(worker)
        if episode is not None and turn % 7 == 3:
            queue.give_back(episode)
        elif episode is not None:
            taken.append(episode)
    assert sorted(taken, key=lambda each: each.key) == sorted(planned, key=lambda each: each.key)


def test_noise_seeds_depend_on_the_names_alone_and_differ() -> None:
    episodes = plan(tasks(3), Protocol(), 5) + plan(tasks(3), Protocol(seed=100), 5)
    seeds = {episode.noise_seed(chunk) for episode in episodes for chunk in range(20)}
    assert len(seeds) == len(episodes) * 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert Episode("libero_spatial", 0, "x", 1, 7).noise_seed(2) == episodes[1].noise_seed(2)


def test_bad_plans_are_refused() -> None:
    with pytest.raises(FoundryError, match="no tasks"):
        plan([], Protocol(), 1)
