"""``evaluate``: a policy, tasks and a protocol in; one record for each episode out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from foundry_bench.envs.workers import WorkerPool
from foundry_bench.errors import FoundryError
from foundry_bench.evaluation.expert import find_policy
from foundry_bench.evaluation.inference import check_fit
from foundry_bench.evaluation.loop import EpisodeLoop, Identity, Limits
from foundry_bench.evaluation.plan import Episode, TaskLike, plan, sizes
from foundry_bench.evaluation.progress import EvaluationProgress
from foundry_bench.evaluation.protocol import Protocol
from foundry_bench.evaluation.records import EpisodeRecord, RecordWriter, latest, read_records
from foundry_bench.evaluation.videos import VideoShelf
from foundry_bench.policies.base import Policy

RECORDS_FILE = "records.jsonl"


@dataclass(frozen=True)
class Machinery:
    """How episodes are run. Nothing in here changes a record, apart from times and number of attempts.

    Attributes:
        max_batch: most observations in one call of the policy.
        timeout_s: longest silence of a worker before its episode is taken as hung.
        recycle_after: replace a worker process after so many episodes.
        service: what the workers host, ``package.module:callable``; tests put their own.
        env: environment variables for the workers.
    """

    max_batch: int = 16
    timeout_s: float = 180.0
    recycle_after: int = 400
    service: str = "foundry_bench.envs.service:EpisodeService"
    env: Mapping[str, str] = field(default_factory=dict)


def evaluate(
    policy: Policy | str,
    tasks: str | Sequence[TaskLike],
    protocol: Protocol,
    out: str | Path,
    *,
    episodes: int | None = None,
    workers: int = 1,
    slots_per_worker: int = 2,
    videos: int = 0,
    resume: bool = True,
    run: str | None = None,
    policy_name: str | None = None,
    progress: bool = True,
    on_record: Callable[[EpisodeRecord], None] | None = None,
    machinery: Machinery | None = None,
) -> list[EpisodeRecord]:
    """Judge a policy closed loop.

    The records depend neither on the number of workers and slots nor on whether the run was interrupted and
    resumed (apart from times, host and number of attempts).

    Args:
        policy: asked in this process, with batches of observations; a name or a folder stands for the policy
            that `find_policy` makes of it.
        tasks: tasks, or the name of a suite (``libero`` for the four standard ones).
        protocol: how to judge.
        out: folder for ``records.jsonl`` and ``videos``.
        episodes: init states 0 .. episodes-1 of each task; None: as many as the protocol says.
        workers, slots_per_worker: simulator processes, and episodes in flight in each of them.
        videos: record the first so many init states of each task.
        resume: keep episodes that finished before and run only the others (errors are run again); False
            moves old records aside.
        run, policy_name: names in the records; None: made from the name of the folder, the policy's own.
        progress: show a progress bar on stderr.
        on_record: called after each record is on disk.
        machinery: what hardly anybody needs to change.

    Returns:
        For each planned episode the record that counts, in order of task and init state.

    Raises:
        FoundryError: policy and protocol do not fit, the folder holds another evaluation, workers cannot
            start, the disk is full, or every episode ends in an error.
    """
    chosen = _tasks(tasks)
    judged = _fitting(policy, chosen, protocol)
    planned = plan(chosen, protocol, protocol.trials if episodes is None else episodes)
    out, name = Path(out), policy_name or judged.name
    if not resume:
        _set_aside(out / RECORDS_FILE)
    with RecordWriter(out / RECORDS_FILE) as writer, EvaluationProgress(len(planned), show=progress) as bar:
        ledger = _Ledger(writer, bar, on_record, read_records(out / RECORDS_FILE))
        ledger.refuse_others(out, name, judged.checkpoint_hash, protocol)
        todo = ledger.unfinished(planned)
        if todo:
            shelf = VideoShelf(out, videos)
            identity = Identity(run or _run_name(out), name, judged.checkpoint_hash, {})
            size = (min(workers, len(todo)), slots_per_worker)
            _run(judged, protocol, todo, identity, shelf, ledger, size, machinery or Machinery())
            shelf.sweep()
        return ledger.counting(planned)


def _run(
    policy: Policy,
    protocol: Protocol,
    todo: Sequence[Episode],
    identity: Identity,
    shelf: VideoShelf,
    ledger: _Ledger,
    size: tuple[int, int],
    machinery: Machinery,
) -> None:
    """Run episodes with ``size`` = (workers, slots of each)."""
    settings = protocol.env_settings(sorted({episode.suite for episode in todo}))
    workers, slots = size
    with WorkerPool(
        workers, machinery.service, {"settings": settings}, timeout_s=machinery.timeout_s, env=machinery.env
    ) as pool:
        identity = replace(identity, versions=_versions(pool))
        limits = Limits(slots, machinery.max_batch, machinery.recycle_after)
        loop = EpisodeLoop(policy, protocol, pool, shelf, identity, limits, ledger.add, ledger.judged)
        loop.run(todo)


class _Ledger:
    """The records of an evaluation: those of earlier runs and those being written."""

    def __init__(
        self,
        writer: RecordWriter,
        bar: EvaluationProgress,
        on_record: Callable[[EpisodeRecord], None] | None,
        known: list[EpisodeRecord],
    ) -> None:
        self._writer = writer
        self._bar = bar
        self._on_record = on_record
        self._records = known

    @property
    def judged(self) -> bool:
        """Whether any episode has finished yet."""
        return any(record.finished for record in self._records)

    def add(self, record: EpisodeRecord) -> None:
        """Put a record on disk, then tell everybody."""
        self._writer.write(record)
        self._records.append(record)
        self._bar.add(record)
        if self._on_record is not None:
            self._on_record(record)

    def unfinished(self, planned: Sequence[Episode]) -> list[Episode]:
        """The episodes that have to be run; those that need not be are counted in the progress bar."""
        done = {key: record for key, record in latest(self._records).items() if record.finished}
        for episode in planned:
            if episode.key in done:
                self._bar.add(done[episode.key])
        return [episode for episode in planned if episode.key not in done]

    def counting(self, planned: Sequence[Episode]) -> list[EpisodeRecord]:
        """The record that counts for each planned episode."""
        chosen = latest(self._records)
        return [chosen[episode.key] for episode in planned]

    def refuse_others(self, out: Path, policy: str, checkpoint_hash: str, protocol: Protocol) -> None:
        """Raise FoundryError when the folder holds the evaluation of something else: never mix silently."""
        for record in self._records:
            there = (record.policy, record.checkpoint_hash, record.protocol_hash)
            if there != (policy, checkpoint_hash, protocol.hash):
                theirs = f"{record.policy}@{record.checkpoint_hash}"
                raise FoundryError(
                    f"{out / RECORDS_FILE} holds policy {theirs} under protocol "
                    f"{record.protocol}@{record.protocol_hash}; this is {policy}@{checkpoint_hash} under "
                    f"{protocol.name}@{protocol.hash}: use another experiment= name, or remove that file"
                )


def _fitting(policy: Policy | str, tasks: Sequence[TaskLike], protocol: Protocol) -> Policy:
    """The policy, checked against what the protocol shows of the tasks."""
    found = find_policy(policy) if isinstance(policy, str) else policy
    state_dim, action_dim = sizes(tasks, protocol)
    if hasattr(found, "adapted"):
        found = found.adapted(state_dim, action_dim, protocol.action_convention)
    check_fit(found, protocol, state_dim, action_dim)
    return found


def _tasks(tasks: str | Sequence[TaskLike]) -> Sequence[TaskLike]:
    if not isinstance(tasks, str):
        return tasks
    from foundry_bench.envs.suites import resolve_suites

    return [task for suite in resolve_suites(tasks) for task in suite.tasks]


def _versions(pool: WorkerPool) -> dict[str, str]:
    """Versions of the simulator as a worker has loaded it, and of torch in this process.

    Asked before any episode is begun, so that a simulator that cannot start says so at once.
    """
    versions = {}
    for _ in range(3):
        pool.submit(0, "versions")
        events = pool.wait()
        if events and events[0].kind == "result":
            versions = {str(name): str(version) for name, version in events[0].value.items()}
            break
    else:
        raise FoundryError(
            f"the simulator does not answer: {events[0].error if events else 'no reason given'}"
        )
    try:
        versions["torch"] = metadata.version("torch")
    except metadata.PackageNotFoundError:
        versions["torch"] = "missing"
    return versions


def _run_name(out: Path) -> str:
    folder = out.resolve()
    return folder.parent.name if folder.name == "eval" else folder.name


def _set_aside(path: Path) -> None:
    """Rename old records to ``records.jsonl.1``, or the next number that is free."""
    if not path.exists():
        return
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    path.rename(path.with_name(f"{path.name}.{number}"))
