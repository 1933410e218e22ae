"""What ``foundry-bench`` can be told to do: one entry per command, code loaded when it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Attributes:
        name: what is typed.
        summary: one line for the list of commands.
        description: what it does and leaves behind, for ``--help``.
        keys: the keys that matter to it, in the order in which ``--help`` shows them.
        examples: command lines without the leading ``foundry-bench``.
        entry: ``module:function``, called with the composed configuration.
        only: where given, no other keys are accepted.
        arguments: keys that are set by words without ``=``, in this order.
        flags: words such as ``--list`` with their meaning; where there are any, the entry is called with
            the configuration and the set of those that were given.
    """

    name: str
    summary: str
    description: str
    keys: tuple[str, ...]
    examples: tuple[str, ...]
    entry: str
    only: tuple[str, ...] | None = None
    arguments: tuple[str, ...] = ()
    flags: dict[str, str] = field(default_factory=dict)

    def load(self) -> Callable[..., int | None]:
        """Import the function behind the command."""
        module, function = self.entry.split(":")
        entry: Callable[..., int | None] = getattr(import_module(module), function)
        return entry


_PLACE = ("experiment", "paths.results", "paths.data")
_WHAT = ("suite", "scale", "tasks")
_DEMOS = ("demos.per_task", "demos.style", "demos.noise", "demos.mistakes")
_VARIETY = ("demos.slowest", "demos.grasps", "demos.detours", "demos.paraphrases")
_FRAMES = ("protocol.image_size", "protocol.render_profile")
_TRAIN = (
    "train.samples",
    "train.samples_per_task",
    "train.batch_size",
    "train.optimizer",
    "train.learning_rate",
    "seed",
    "device",
)
_EVAL = ("eval.episodes", "eval.replan", "eval.videos", "eval.workers")

_ALL = (
    Command(
        "train-and-eval",
        "demonstrations, training, evaluation and the table, in one go",
        "Collects scripted demonstrations, trains a vision-language-action policy on them, judges it closed\n"
        "loop from the official init states, and writes the table to results/EXPERIMENT. A phase that was\n"
        "finished with the same inputs is not repeated; an interrupted one goes on where it stopped.",
        (*_WHAT, *_DEMOS, "demos.root", *_TRAIN, *_EVAL, *_FRAMES, *_PLACE),
        (
            "train-and-eval suite=libero",
            "train-and-eval suite=libero_object scale=laptop",
            "train-and-eval suite=libero_goal tasks=[4,8] demos.per_task=40 eval.episodes=20",
        ),
        "foundry_bench.commands.phases:train_and_eval",
    ),
    Command(
        "demos",
        "collect scripted demonstrations",
        "Collects demonstrations of the scripted experts into a LeRobotDataset (v3.0) below paths.data.\n"
        "They start from freshly sampled states, never from the evaluation's; only successes are kept.",
        (
            *_WHAT,
            *_DEMOS,
            *_VARIETY,
            "demos.format",
            "demos.video_codec",
            "demos.max_attempts_factor",
            "demos.workers",
            "seed",
            *_FRAMES,
            *_PLACE,
        ),
        (
            "demos suite=libero_object demos.per_task=50",
            "demos suite=libero_spatial scale=laptop",
            "demos suite=libero_goal demos.style=varied",
        ),
        "foundry_bench.commands.phases:demos",
    ),
    Command(
        "captions",
        "image-text pairs and a text corpus from the simulator's true state",
        "Renders randomised scenes and writes captions, questions and answers on them, as parquet (for\n"
        "Hugging Face datasets) and WebDataset shards, and a text corpus, below paths.data. Goes on where\n"
        "it stopped; no scene is one of the evaluation's init states.",
        (
            *_WHAT,
            "captions.scenes",
            "captions.cameras",
            "captions.scrambled",
            "captions.painted",
            "captions.camera_jitter",
            "captions.light_jitter",
            "captions.image_format",
            "captions.workers",
            "captions.root",
            "seed",
            *_FRAMES,
            "paths.data",
        ),
        (
            "captions suite=libero tasks=null captions.scenes=2000",
            "captions suite=libero_goal scale=laptop protocol.image_size=224",
        ),
        "foundry_bench.commands.captions:run",
    ),
    Command(
        "demos replay",
        "simulate a dataset again: how many episodes still succeed?",
        "Starts each episode of a LeRobotDataset or of HDF5 files (LIBERO, robomimic) where it started and\n"
        "executes its actions (replay.mode=states: goes through its simulator states), and says how many\n"
        "succeed again and how far the robot drifts. Leaves one JSON line an episode. Interrupted, it goes\n"
        "on where it stopped.",
        (
            "data.path",
            "data.out",
            "replay.mode",
            "replay.episodes",
            "data.pairing",
            "demos.workers",
            "protocol.engine",
        ),
        ("demos replay results/data/my-demos", "demos replay human/libero_goal replay.mode=states"),
        "foundry_bench.commands.datasets:replay",
        arguments=("data.path",),
    ),
    Command(
        "data inspect",
        "what is in a dataset, and what looks wrong with it",
        "Shows kind, counts, lengths, tasks and ranges of a LeRobotDataset or of HDF5 files, warns of\n"
        "numbers that are constant or saturated, of grippers that never move and of repeated episodes, and\n"
        "leaves a picture with frames of some episodes.",
        ("data.path", "data.out", "data.cameras", "data.pairing", "paths.results"),
        ("data inspect results/data/my-demos", "data inspect human/libero_goal/open_the_drawer_demo.hdf5"),
        "foundry_bench.commands.datasets:inspect",
        arguments=("data.path",),
    ),
    Command(
        "data convert",
        "HDF5 to LeRobotDataset and back, images to video",
        "Reads HDF5 files (LIBERO, robomimic) into a LeRobotDataset, or writes LIBERO's HDF5 layout from\n"
        "one, with simulator states made by simulating each episode again. With data.to=lerobot, a\n"
        "LeRobotDataset is written anew in another form (demos.format, data.image_size, data.cameras).\n"
        "Interrupted, it goes on where it stopped.",
        (
            "data.path",
            "data.out",
            "data.to",
            "demos.format",
            "demos.image_format",
            "demos.video_codec",
            "data.image_size",
            "data.cameras",
            "data.pairing",
        ),
        (
            "data convert human/libero_goal results/data/human-goal",
            "data convert results/data/my-demos my-hdf5",
            "data convert results/data/my-demos results/data/my-video data.to=lerobot demos.format=video",
        ),
        "foundry_bench.commands.datasets:convert",
        arguments=("data.path", "data.out"),
    ),
    Command(
        "train",
        "train a policy on demonstrations",
        "Trains on the demonstrations the same keys stand for, collecting them first where missing, or\n"
        "on those in demos.root. Leaves results/EXPERIMENT/train/checkpoint.",
        (*_WHAT, *_DEMOS, "demos.root", *_TRAIN, *_FRAMES[:1], *_PLACE),
        ("train suite=libero_object train.samples=100000", "train demos.root=results/data/my-demos"),
        "foundry_bench.commands.phases:train",
    ),
    Command(
        "eval",
        "judge a checkpoint closed loop",
        "Runs episodes from the official init states and writes one record per episode as it ends, then the\n"
        "table. Without checkpoint= it judges what `train` left for the same keys. Interrupted, it goes on\n"
        "where it stopped; episodes that ended in an error are tried again.",
        (
            "checkpoint",
            *_WHAT,
            *_EVAL,
            "eval.slots_per_worker",
            "device",
            *_FRAMES,
            "protocol.engine",
            *_PLACE,
        ),
        (
            "eval checkpoint=results/libero-quick/train/checkpoint suite=libero_spatial eval.episodes=20",
            "eval checkpoint=random suite=libero_object scale=smoke",
            "eval policy=scripted suite=libero scale=paper",
        ),
        "foundry_bench.commands.phases:evaluate",
    ),
    Command(
        "report",
        "write table and plots again from an experiment's records",
        "Reads results/EXPERIMENT/eval/records.jsonl and writes table.csv|md|tex, summary.json and the\n"
        "bar chart again. Simulates nothing.",
        (*_PLACE[:2], *_WHAT),
        ("report experiment=libero-quick", "report suite=libero_object scale=laptop"),
        "foundry_bench.commands.phases:report",
    ),
    Command(
        "list",
        "suites and tasks with their instructions",
        "Shows number and instruction of each task of a suite (libero: of all four).",
        ("suite", "robot", "suites"),
        ("list", "list suite=libero_goal"),
        "foundry_bench.commands.listing:run",
        only=("suite", "robot", "suites", "debug"),
    ),
    Command(
        "cache",
        "the compiled scenes that are kept, and the room they take",
        "Compiled scenes are kept in ~/.cache/foundry-bench, or in $FOUNDRY_BENCH_CACHE, and made again\n"
        "when they are missing. Beyond 20 GiB, or $FOUNDRY_BENCH_CACHE_GB, the least recently used go.",
        (),
        ("cache",),
        "foundry_bench.commands.caches:run",
        only=("debug",),
        flags={
            "--list": "show every scene, then the total (what is done without a flag)",
            "--clear": "delete every compiled scene and lighter mesh and texture",
        },
    ),
    Command(
        "doctor",
        "is this machine ready? says how to mend what is not",
        "Checks Python, torch, MuJoCo's version, LIBERO's files, headless rendering, disk and memory.\n"
        "Exits with 1 when something must be mended.",
        (),
        ("doctor",),
        "foundry_bench.commands.health:run",
        only=("debug", "paths.results"),
    ),
)

COMMANDS: dict[str, Command] = {command.name: command for command in _ALL}
