"""The loop of an evaluation: episodes in flight in worker processes, one policy that they all ask.

Non-obvious behaviours:

- The policy is asked when a worker has nothing else to do, or when a full batch is ready; until then
  observations are gathered. Which observations share a batch therefore depends on timing: a policy's answer
  must not depend on its neighbours (the policy contract), and noise seeds are a function of the episode.
- When a worker dies, the request it was working on is to blame. The other episodes in flight on that worker
  are run again without it being counted against them.
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from foundry_bench.envs.workers import Event, WorkerPool
from foundry_bench.errors import FoundryError
from foundry_bench.evaluation.inference import PolicyFault, predict
from foundry_bench.evaluation.plan import Episode, EpisodeQueue
from foundry_bench.evaluation.protocol import CONTROL_HZ, Protocol
from foundry_bench.evaluation.records import EpisodeRecord, Key
from foundry_bench.evaluation.videos import VideoShelf
from foundry_bench.policies.base import Policy

_ATTEMPTS = 3
_MAX_STARTS = 20  # bounds how often an innocent episode is run again because its worker died
_HOPELESS_AFTER = 10
_STEPS_OF_AN_EXPERT = 50  # in one request, where the policy is an expert that acts in the simulator


@dataclass(frozen=True)
class Identity:
    """What every record of an evaluation has in common."""

    run: str
    policy: str
    checkpoint_hash: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Limits:
    """Numbers that change the speed of an evaluation and nothing else."""

    slots_per_worker: int
    max_batch: int
    recycle_after: int


@dataclass(eq=False)
class _Flight:
    """An episode under way in one slot of one worker."""

    episode: Episode
    worker: int
    slot: int
    begun: float
    chunks: int = 0
    steps: int = 0
    simulator_seconds: float = 0.0
    observation: Mapping[str, Any] | None = None


class EpisodeLoop:
    """Runs episodes to their ends and hands over a record for each.

    Args:
        pool: workers that host an episode service.
        on_record: called with each record, in the order in which the episodes end.
        judged_before: an earlier run has finished episodes of the same evaluation; without any, an
            evaluation in which everything is an error is stopped early.
    """

    def __init__(
        self,
        policy: Policy,
        protocol: Protocol,
        pool: WorkerPool,
        shelf: VideoShelf,
        identity: Identity,
        limits: Limits,
        on_record: Callable[[EpisodeRecord], None],
        judged_before: bool = False,
    ) -> None:
        self._policy = policy
        self._acts_in_simulator = bool(getattr(policy, "acts_in_simulator", False))
        self._protocol = protocol
        self._pool = pool
        self._shelf = shelf
        self._identity = identity
        self._limits = limits
        self._on_record = on_record
        self._judged = judged_before
        self._queue = EpisodeQueue([])
        self._hopeless_after = _HOPELESS_AFTER
        self._causes: Counter[str] = Counter()
        self._flights: list[dict[int, _Flight]] = [{} for _ in range(len(pool))]
        self._by_request: dict[int, _Flight] = {}
        self._ready: list[_Flight] = []
        self._generations = [pool.generation(worker) for worker in range(len(pool))]
        self._begun_on_worker = [0] * len(pool)
        self._starts: Counter[Key] = Counter()
        self._blames: Counter[Key] = Counter()

    def run(self, episodes: Sequence[Episode]) -> None:
        """Run all episodes.

        Raises:
            FoundryError: workers cannot be started, records cannot be written, or each of the first ten
                episodes (or all, if there are fewer) ended in an error.
        """
        self._queue = EpisodeQueue(episodes)
        self._hopeless_after = min(_HOPELESS_AFTER, len(episodes))
        while len(self._queue) or any(self._flights):
            self._fill()
            asking = self._time_to_ask()
            for event in self._pool.wait(timeout_s=0.0 if asking else None):
                self._handle(event)
            self._notice_silent_deaths()
            if asking:
                self._ask_policy()

    def _fill(self) -> None:
        """Start an episode in every free slot; one slot of each worker first, then the next."""
        for worker in range(len(self._pool)):
            self._recycle_if_worn(worker)
        for slot in range(self._limits.slots_per_worker):
            for worker in range(len(self._pool)):
                if slot in self._flights[worker] or self._is_worn(worker):
                    continue
                episode = self._queue.take(worker)
                if episode is not None:
                    self._begin(episode, worker, slot)

    def _begin(self, episode: Episode, worker: int, slot: int) -> None:
        self._starts[episode.key] += 1
        self._begun_on_worker[worker] += 1
        flight = _Flight(episode, worker, slot, time.perf_counter())
        self._flights[worker][slot] = flight
        blind = {"look": False} if self._acts_in_simulator else {}
        request = self._pool.submit(
            worker,
            "start",
            slot=slot,
            suite=episode.suite,
            task=episode.task_index,
            init_state=episode.init_state,
            seed=episode.seed,
            video=self._shelf.request(episode, self._starts[episode.key]),
            **blind,
        )
        self._by_request[request] = flight

    def _is_worn(self, worker: int) -> bool:
        return self._begun_on_worker[worker] >= self._limits.recycle_after

    def _recycle_if_worn(self, worker: int) -> None:
        """Native libraries leak; a fresh process now and then keeps memory bounded."""
        if self._is_worn(worker) and not self._flights[worker] and not self._pool.pending(worker):
            self._pool.recycle(worker)
            self._generations[worker] = self._pool.generation(worker)
            self._begun_on_worker[worker] = 0

    def _time_to_ask(self) -> bool:
        if len(self._ready) >= self._limits.max_batch:
            return True
        starving = any(
            flights and not self._pool.pending(worker) for worker, flights in enumerate(self._flights)
        )
        return bool(self._ready) and starving

    def _handle(self, event: Event) -> None:
        flight = self._by_request.pop(event.request, None)
        if event.kind == "died":
            self._lose_worker(event.worker, event.error, flight)
        elif flight is None:
            return  # the answer to a drop
        elif event.kind == "error":
            self._drop(flight)
            self._retry(flight, event.error, again=not event.error.startswith("FoundryError: "))
        elif flight.chunks == 0:
            self._await_policy(flight, event.value)
        else:
            self._progress(flight, event.value)

    def _progress(self, flight: _Flight, answer: Mapping[str, Any]) -> None:
        flight.steps = int(answer["steps"])
        flight.simulator_seconds += float(answer["sim_seconds"])
        if not answer["done"]:
            self._await_policy(flight, answer["observation"])
            return
        self._release(flight)
        outcome = "success" if answer["success"] else "failure"
        self._record(flight, outcome, video=self._shelf.keep(flight.episode, answer.get("video"), outcome))

    def _await_policy(self, flight: _Flight, observation: Mapping[str, Any]) -> None:
        if self._acts_in_simulator:
            flight.chunks += 1
            request = self._pool.submit(
                flight.worker, "advance_expert", slot=flight.slot, steps=_STEPS_OF_AN_EXPERT
            )
            self._by_request[request] = flight
            return
        flight.observation = observation
        self._ready.append(flight)

    def _ask_policy(self) -> None:
        batch = self._ready[: self._limits.max_batch]
        del self._ready[: len(batch)]
        if not batch:
            return  # a worker died in between and took its observations along
        observations = [flight.observation or {} for flight in batch]
        seeds = [flight.episode.noise_seed(flight.chunks) for flight in batch]
        for flight, chunk in zip(batch, predict(self._policy, observations, seeds), strict=True):
            flight.observation = None
            flight.chunks += 1
            if isinstance(chunk, PolicyFault):
                self._drop(flight)
                self._record(flight, "error", error=chunk.cause)
            else:
                actions = np.ascontiguousarray(chunk[: self._protocol.replan])
                request = self._pool.submit(flight.worker, "advance", slot=flight.slot, actions=actions)
                self._by_request[request] = flight

    def _release(self, flight: _Flight) -> None:
        self._flights[flight.worker].pop(flight.slot, None)

    def _drop(self, flight: _Flight) -> None:
        """Free the slot; the worker answers in order, so the next episode can be queued behind this."""
        self._release(flight)
        self._pool.submit(flight.worker, "drop", slot=flight.slot)

    def _notice_silent_deaths(self) -> None:
        """A worker that died with nothing to do has no request that would come back."""
        for worker in range(len(self._pool)):
            self._lose_worker(worker, "died", None)

    def _lose_worker(self, worker: int, reason: str, culprit: _Flight | None) -> None:
        if self._pool.generation(worker) == self._generations[worker]:
            return  # already taken note of
        self._generations[worker] = self._pool.generation(worker)
        self._begun_on_worker[worker] = 0
        lost = list(self._flights[worker].values())
        self._flights[worker].clear()
        self._ready = [flight for flight in self._ready if flight.worker != worker]
        self._by_request = {key: each for key, each in self._by_request.items() if each.worker != worker}
        for flight in lost:
            if flight is culprit:
                self._retry(flight, f"worker {reason}", again=True)
            elif self._starts[flight.episode.key] >= _MAX_STARTS:
                self._record(flight, "error", error=f"worker {reason}, {_MAX_STARTS} times in a row")
            else:
                self._queue.give_back(flight.episode)

    def _retry(self, flight: _Flight, cause: str, *, again: bool) -> None:
        key = flight.episode.key
        self._blames[key] += 1
        if again and self._blames[key] < _ATTEMPTS:
            self._queue.give_back(flight.episode)
        else:
            self._record(flight, "error", error=cause)

    def _record(self, flight: _Flight, outcome: str, *, error: str = "", video: str | None = None) -> None:
        episode = flight.episode
        record = EpisodeRecord(
            run=self._identity.run,
            policy=self._identity.policy,
            checkpoint_hash=self._identity.checkpoint_hash,
            protocol=self._protocol.name,
            protocol_hash=self._protocol.hash,
            suite=episode.suite,
            task_index=episode.task_index,
            instruction=episode.instruction,
            init_state=episode.init_state,
            seed=episode.seed,
            outcome=outcome,
            steps=flight.steps,
            chunks=flight.chunks,
            simulated_seconds=flight.steps / CONTROL_HZ,
            wall_seconds=round(time.perf_counter() - flight.begun, 3),
            simulator_seconds=round(flight.simulator_seconds, 3),
            attempts=self._starts[episode.key],
            error=error,
            video=video,
            versions=dict(self._identity.versions),
            host=platform.node(),
            ended_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._on_record(record)
        self._stop_if_hopeless(record)

    def _stop_if_hopeless(self, record: EpisodeRecord) -> None:
        self._judged = self._judged or record.finished
        if self._judged:
            return
        self._causes[record.error] += 1
        count = self._causes.total()
        if count >= self._hopeless_after:
            cause, times = self._causes.most_common(1)[0]
            raise FoundryError(
                f"the first {count} episodes all ended in errors, {times} of them: {cause}; "
                "nothing was measured, mend that and run the same command again"
            )
