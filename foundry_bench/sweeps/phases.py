"""Training, evaluation and report of an experiment.

Each phase skips itself where it was finished with the same inputs. Torch, the simulator and plots are
imported by the phase that uses them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from foundry_bench import runtime
from foundry_bench.configs.keys import harmless
from foundry_bench.envs.suites import Task
from foundry_bench.errors import FoundryError
from foundry_bench.sweeps import sections
from foundry_bench.sweeps.demonstrations import Demonstrations, cameras_of
from foundry_bench.sweeps.experiment import Experiment
from foundry_bench.sweeps.stages import beside_inputs, beside_policy
from foundry_bench.sweeps.state import fingerprint


def train(run: Experiment, demos: Demonstrations, start: Path | None = None) -> Path:
    """Train a policy on the demonstrations; returns the checkpoint's folder.

    Args:
        start: the checkpoint of the stage before, whose weights and tokenizer it begins with.
    """
    from foundry_bench.data.lerobot import RobotDataset

    dataset = RobotDataset(Path(demos.root), cameras_of(run.config))
    model = sections.model_config(run.config)
    settings = sections.train_config(run.config, len(demos.trained(run.tasks)))
    learned = {key: value for key, value in settings.to_dict().items() if not harmless(f"train.{key}")}
    stage = start.parent.name if start is not None else None  # its inputs are in its name
    inputs = fingerprint([learned, model.to_dict(), dataset.fingerprint, stage, beside_inputs(run)])
    if start is not None:
        settings = replace(settings, init_from=str(start))
    beside = beside_policy(run)
    if run.state.finished("train", inputs) is not None and (run.checkpoint / "model.safetensors").is_file():
        run.say_finished("train")
        return run.checkpoint
    from foundry_bench.training.loop import train as train_policy

    with run.state.running("train", inputs) as output:
        runtime.use_torch_threads(runtime.training_threads())
        checkpoint = train_policy(
            settings, model, dataset, run.folder / "train", device=run.config.device, beside=beside
        )
        output.update(checkpoint=str(checkpoint), samples=settings.samples, frames=len(dataset))
    return checkpoint


def evaluate(run: Experiment, tasks: Sequence[Task], checkpoint: str, demos: Demonstrations | None) -> None:
    """Judge a checkpoint on the tasks; what the table needs beside the records is kept in the state."""
    from foundry_bench.evaluation.expert import find_policy

    runtime.use_torch_threads(1)
    policy = find_policy(checkpoint, run.config.device)
    protocol = sections.protocol(run.config)
    episodes = int(run.config.eval.episodes)
    inputs = fingerprint([policy.checkpoint_hash, protocol.hash, [task.key for task in tasks], episodes])
    if run.state.finished("eval", inputs) is not None and run.records.is_file():
        run.say_finished("eval")
        return
    from foundry_bench.doctor import require_rendering
    from foundry_bench.evaluation.runner import evaluate as run_episodes

    require_rendering()
    with run.state.running("eval", inputs) as output:
        output["policy"] = {"name": policy.name, "checkpoint": checkpoint, "hash": policy.checkpoint_hash}
        output["demonstrations"] = demos and asdict(demos)
        output["protocol"] = protocol.describe()
        records = run_episodes(
            policy,
            list(tasks),
            protocol,
            run.folder / "eval",
            episodes=episodes,
            workers=runtime.worker_count(run.config.eval.workers),
            slots_per_worker=int(run.config.eval.slots_per_worker),
            videos=int(run.config.eval.videos),
            run=str(run.config.experiment),
        )
        errors = sum(record.outcome == "error" for record in records)
        output["again"] = errors
    if errors:
        said = f"{errors} episodes ended in an error, which is neither success nor failure"
        run.say(f"{said}; the same command tries them again", style="yellow")


def report(run: Experiment) -> Path:
    """Write table, summary and plots from the records, print the table; returns the table's path."""
    facts = run.state.output("eval")
    if facts is None or not run.records.is_file():
        raise FoundryError(
            f"{run.records}: no episodes yet; `foundry-bench eval` with the same keys makes them"
        )
    demos = Demonstrations(
        **(facts["demonstrations"] or {"root": "", "source": "unknown", "tasks": [], "skipped": []})
    )
    meta = {
        "experiment": run.config.experiment,
        "suite": run.config.suite,
        "scale": run.config.scale,
        "policy": facts["policy"],
        "demonstrations": {"source": demos.source, "per_task": demos.per_task(), "tasks": demos.tasks},
        "skipped": demos.skipped,
        "protocol": facts["protocol"],
        "seconds": {name: spent for name, spent in run.state.seconds().items() if name != "report"},
    }
    table = run.folder / "table.md"
    inputs = fingerprint([hashlib.sha256(run.records.read_bytes()).hexdigest(), meta])
    from foundry_bench.analysis.report import print_table, write_report

    if run.state.finished("report", inputs) is None or not table.is_file():
        with run.state.running("report", inputs):
            write_report([run.records], run.folder, meta)
    print_table([run.records], meta)
    return table
