"""The keys people set, with what they mean and what they may hold: for ``--help`` and for checking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        name: dotted path.
        meaning: one line for ``--help``.
        kind: what a value must be where the default is null; otherwise the default's type decides.
        low, high: inclusive bounds of numbers.
        choices: the allowed words, where there are few.
        optional: null is a valid value.
    """

    name: str
    meaning: str
    kind: type | None = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False


KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        Key("suite", "libero (the four standard suites) or one suite; `foundry-bench list` shows them"),
        Key("scale", "how big a job: smoke (does it run?), quick, laptop (every task), paper"),
        Key("tasks", "task numbers: [0,3] for every suite, {libero_goal:[0]} for each; null: all"),
        Key(
            "robot",
            "arm of suite=robosuite: Panda, Sawyer, UR5e, IIWA, Kinova3, Jaco",
            str,
            optional=True,
        ),
        Key("suites", "suites of your own: {name: folder of BDDL files, or YAML of Gymnasium environments}"),
        Key(
            "experiment",
            "name of the results folder; null: from suite, scale and what else differs",
            str,
            optional=True,
        ),
        Key(
            "seed", "seeds demonstrations and training (the protocol has its own)", int, low=0, high=2**31 - 1
        ),
        Key("device", "cpu, cuda, cuda:1; auto takes a GPU where there is one"),
        Key("debug", "true shows tracebacks"),
        Key("paths.results", "where experiments are written"),
        Key("pretrain", "stages before the policy: [llm], [vlm] or [llm,vlm]; []: none", list),
        Key("stage", "what `train` trains: llm, vlm or vla", choices=("llm", "vlm", "vla")),
        Key("llm.samples", "budget of the stage llm, in blocks of text", low=1),
        Key("llm.corpora", "text, with weights: {embedded: 1}; null: just that", dict, optional=True),
        Key("llm.block", "tokens in a block of text", low=2),
        Key("vlm.samples", "budget of the stage vlm, in image-text pairs", low=1),
        Key("vlm.answer_tokens", "longer answers lose their end", low=2),
        Key("vlm.text", "steps on text for each on pairs, after the stage llm", low=0, high=10),
        Key("cotrain.captions", "steps on image-text pairs for each on demonstrations", low=0, high=10),
        Key("cotrain.text", "steps on text for each on demonstrations", low=0, high=10),
        Key("paths.stages", "where pretrained stages are kept; experiments share them"),
        Key("paths.data", "where demonstrations are kept; experiments share them"),
        Key("captions.scenes", "randomised scenes, drawn by every camera", low=1),
        Key("captions.cameras", "cameras that draw each scene"),
        Key("captions.scrambled", "share of the scenes with objects put elsewhere", low=0, high=1),
        Key("captions.painted", "share of plain objects in another colour, where scrambled", low=0, high=1),
        Key("captions.camera_jitter", "factor on the displacement of the cameras", low=0, high=3),
        Key("captions.light_jitter", "factor on the variation of the lights", low=0, high=3),
        Key("captions.image_format", "png, or jpeg: smaller", choices=("png", "jpeg")),
        Key(
            "captions.workers", "simulator processes; null: one per core", int, low=1, high=256, optional=True
        ),
        Key("captions.root", "folder of the dataset; null: below paths.data", str, optional=True),
        Key("demos.per_task", "demonstrations per task", low=1),
        Key(
            "demos.style",
            "usual, clean, or varied: sets the five keys below",
            choices=("usual", "clean", "varied"),
        ),
        Key("demos.noise", "standard deviation of the noise on executed actions (0: none)", low=0, high=1),
        Key(
            "demos.mistakes",
            "share of the attempts that miss the object once and recover (0: none)",
            low=0,
            high=1,
        ),
        Key("demos.slowest", "the speed of an attempt is drawn from [slowest, 1]", low=0.2, high=1),
        Key(
            "demos.grasps",
            "spread of the costs by which grasps are chosen (0: always the best)",
            low=0,
            high=2,
        ),
        Key("demos.detours", "share of the longer ways that lead over a point beside them", low=0, high=1),
        Key("demos.paraphrases", "share of the demonstrations told in other words", low=0, high=1),
        Key(
            "demos.format",
            "image: every frame an image; video: mp4, a tenth of the size",
            choices=("image", "video"),
        ),
        Key("demos.image_format", "png (lossless) or jpeg", choices=("png", "jpeg")),
        Key("demos.video_codec", "codec of demos.format=video", choices=("h264", "av1")),
        Key("demos.root", "a folder of demonstrations to use instead of collecting", str, optional=True),
        Key("demos.max_attempts_factor", "give a task up after this many attempts per demonstration", low=1),
        Key("demos.workers", "simulator processes; null: one per core", int, low=1, high=256, optional=True),
        Key(
            "train.samples",
            "training budget in samples; null: samples_per_task x tasks",
            int,
            low=1,
            optional=True,
        ),
        Key("train.samples_per_task", "the budget where train.samples is null", low=1),
        Key("train.batch_size", "samples per update", low=1),
        Key("train.optimizer", "muon (with AdamW on the outer matrices) or adamw", choices=("muon", "adamw")),
        Key("train.learning_rate", "peak learning rate", low=0, high=10),
        Key("train.feature_views", "keep a frozen encoder's features of so many views of each frame", low=0),
        Key(
            "model.vision",
            "vision encoder, see docs/backbones.md",
            choices=("stem", "vit", "efficientnet_lite0", "pretrained"),
        ),
        Key("model.vision_path", "folder or hub id of SigLIP, DINOv2 or CLIP (model.vision=pretrained)"),
        Key("model.vision_tuning", "full, or frozen: it keeps its weights", choices=("full", "frozen")),
        Key("model.text", "text encoder", choices=("own", "minilm")),
        Key("model.backbone", "own, or a pretrained vlm or lm", choices=("own", "vlm", "lm")),
        Key("model.backbone_path", "folder or hub id of the pretrained backbone"),
        Key("model.tuning", "of a pretrained backbone", choices=("full", "frozen", "lora")),
        Key(
            "train.schedule",
            "after the warm-up: cosine, constant, or wsd (stable, then down)",
            choices=("cosine", "constant", "wsd"),
        ),
        Key("train.rates", "learning rates of parts: {stems: 0.1}", dict, optional=True),
        Key("train.freeze", "parts that are not trained: [language]"),
        Key("train.freeze_until", "samples after which they are; 0: never", low=0),
        Key("train.init_from", "a checkpoint's folder to start from", str, optional=True),
        Key("train.keep_best", "a validation measure: best/ holds the best so far", str, optional=True),
        Key("train.accumulate", "parts a batch is computed in, one after the other", low=1),
        Key(
            "train.precision",
            "auto (bf16 autocast on a GPU), fp32, or bf16 (bf16 weights)",
            choices=("auto", "fp32", "bf16"),
        ),
        Key(
            "train.parallel",
            "none, ddp or fsdp: processes that torchrun starts",
            choices=("none", "ddp", "fsdp"),
        ),
        Key(
            "eval.episodes", "episodes per task; episode i starts from official init state i", low=1, high=50
        ),
        Key("eval.replan", "actions of a chunk that are executed before the next is asked for", low=1),
        Key("eval.videos", "rollout videos per task", low=0),
        Key("eval.workers", "simulator processes; null: one per core", int, low=1, high=256, optional=True),
        Key("eval.slots_per_worker", "episodes in flight in each worker", low=1, high=64),
        Key("checkpoint", "checkpoint folder to judge, or zero / random / scripted", str, optional=True),
        Key(
            "protocol.image_size",
            "pixels of each camera, also of demonstrations and model",
            low=16,
            high=1024,
        ),
        Key("protocol.render_profile", "fast, or exact: stock LIBERO's pixels", choices=("fast", "exact")),
        Key("protocol.engine", "native, or robosuite: stock stepping", choices=("native", "robosuite")),
        Key(
            "protocol.reset_mode",
            "strict, or legacy: fixtures as in the published harnesses",
            choices=("strict", "legacy"),
        ),
        Key("protocol.wait_steps", "steps before the policy is asked, outside its budget", low=0),
        Key("data.path", "a LeRobotDataset's folder, an HDF5 file, or a folder of such", str, optional=True),
        Key("data.out", "where to write; null: below paths.results", str, optional=True),
        Key(
            "data.cameras",
            "the dataset's names of our cameras: {agentview: image, wrist: image2}; null: the same",
            dict,
            optional=True,
        ),
        Key(
            "data.pairing",
            "of HDF5: auto, actions with what was seen before them; stored, as they are",
            choices=("auto", "stored"),
        ),
        Key(
            "data.to", "lerobot or hdf5; null: the other one", str, choices=("lerobot", "hdf5"), optional=True
        ),
        Key("data.image_size", "side of converted frames; null: as they are", int, 16, 1024, optional=True),
        Key("replay.mode", "actions, or states: of the simulator", choices=("actions", "states")),
        Key("replay.episodes", "so many, evenly spread; null: all", int, low=1, optional=True),
        Key(
            "executor.workers",
            "simulator processes of every phase; null: one per core",
            int,
            low=1,
            high=256,
            optional=True,
        ),
    )
}

#: Names people use for a key that lives elsewhere: how often to replan is part of the protocol.
ALIASES = {"eval.replan": "protocol.replan", "policy": "checkpoint"}

#: Keys that choose a group: the group's file sets them together with what they stand for.
GROUPS = {"demos.style": "style"}

#: Keys that cannot move a number in a table: they do not make another experiment.
HARMLESS = (
    "experiment",
    "debug",
    "device",
    "paths",
    "suites",
    "stage",
    "executor",
    "captions.root",
    "captions.workers",
    "demos.workers",
    "train.save_every",
    "train.log_every",
    "train.validate_every",
    "train.prefetch",
    "train.keep_best",
    "train.accumulate",
    "train.checkpoint_activations",
    "train.parallel",
    "train.feature_gib",
    "eval.videos",
    "eval.workers",
    "eval.slots_per_worker",
    "data.path",
    "data.out",
    "data.to",
    "data.image_size",
    "data.pairing",
    "replay",
)


def harmless(name: str) -> bool:
    """Whether a changed value of the key leaves an experiment what it was."""
    return any(name == key or name.startswith(key + ".") for key in HARMLESS)


def idle(name: str, leaves: Mapping[str, Any]) -> bool:
    """Whether the key is of a section that nothing reads: of a stage, or of pairs, that are not asked for.

    Args:
        name: of the key.
        leaves: values by dotted names; a configuration from before there were stages has none of them.
    """
    stages = {*(leaves.get("pretrain") or ()), leaves.get("stage")}
    pairs = "vlm" in stages or bool(leaves.get("cotrain.captions"))
    read = {
        "llm": "llm" in stages or bool(leaves.get("cotrain.text")),
        "vlm": pairs,
        "captions": pairs,
    }
    return not read.get(name.split(".")[0], True)
