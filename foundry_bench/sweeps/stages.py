"""The stages before the policy: a language model, then a vision-language model, kept for other experiments.

A stage's folder is named by everything that decides its weights: its shape, its data, its budget and the
stage before it. An experiment that needs the same stage finds it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from foundry_bench import runtime
from foundry_bench.errors import FoundryError, nearest
from foundry_bench.sweeps import sections
from foundry_bench.sweeps.captions import captions, captions_folder
from foundry_bench.sweeps.experiment import Experiment
from foundry_bench.sweeps.state import fingerprint, only_one

if TYPE_CHECKING:
    from foundry_bench.policies.config import VLAConfig
    from foundry_bench.policies.lm_config import LMConfig
    from foundry_bench.training.beside import Beside
    from foundry_bench.training.config import TrainConfig
    from foundry_bench.training.text_config import TextConfig

STAGES = ("llm", "vlm")
#: Fields of the model that do not reach a vision-language model: what acts and how it is called.
_ACTING = (
    "name", "architecture", "head", "state_dim", "action_dim", "horizon", "state_convention",
    "action_convention", "expert_width", "expert_hidden", "euler_steps", "flow_draws", "conditioning",
    "diffusion_steps", "denoising_steps", "prediction", "action_tokenizer", "action_vocab", "dct_scale",
    "state_normalization", "action_normalization",
)  # fmt: skip


@dataclass(frozen=True)
class Planned:
    """A stage that an experiment needs, and where it is or will be."""

    name: str
    folder: Path
    inputs: str

    @property
    def checkpoint(self) -> Path:
        """What the stage leaves."""
        return self.folder / "checkpoint"


def wanted_stages(config: DictConfig) -> list[str]:
    """The stages before the policy, or up to the one that ``stage`` names, in order.

    Raises:
        FoundryError: ``pretrain`` names something else, or out of order.
    """
    given = [str(name) for name in config.pretrain]
    for name in given:
        if name not in STAGES:
            raise FoundryError(f"pretrain=[{','.join(given)}]: no stage '{name}', {nearest(name, STAGES)}")
    if given != [name for name in STAGES if name in given]:
        raise FoundryError(f"pretrain=[{','.join(given)}]: the order is [llm,vlm], each at most once")
    if config.stage == "vla":
        return given
    return [name for name in STAGES if name in given and STAGES.index(name) < STAGES.index(config.stage)] + [
        str(config.stage)
    ]


def before_policy(config: DictConfig) -> bool:
    """Whether anything comes before demonstrations: a stage, or the pairs that the policy learns from too."""
    return bool(wanted_stages(config)) or needs_captions(config)


def needs_captions(config: DictConfig) -> bool:
    """Whether image-text pairs are learned from, in a stage or beside the policy."""
    return "vlm" in wanted_stages(config) or bool(config.cotrain.captions)


def pretrained(run: Experiment) -> Path | None:
    """Train the stages before the policy that are not there yet; the last one's checkpoint, None without any.

    Raises:
        FoundryError: anything the user can mend, in one line.
    """
    before: Planned | None = None
    root = captions(run.config, run.tasks, run.console) if needs_captions(run.config) else None
    for name in wanted_stages(run.config):
        before = _llm(run, root) if name == "llm" else _vlm(run, root, before)
    return before.checkpoint if before is not None else None


def beside_policy(run: Experiment) -> Beside:
    """What the policy's stage learns from beside demonstrations (``cotrain``)."""
    from foundry_bench.training.beside import Beside

    config = run.config
    root = captions_folder(config, run.tasks) if needs_captions(config) else None
    return Beside(
        captions=float(config.cotrain.captions),
        captions_root=str(root or ""),
        answer_tokens=int(config.vlm.answer_tokens),
        text=float(config.cotrain.text),
        text_config=text_config(config, root) if config.cotrain.text else None,
        block=int(config.llm.block),
    )


def _llm(run: Experiment, root: Path | None) -> Planned:
    from foundry_bench.training.llm_stage import train_language_model

    config = run.config
    settings, model, text = train_config(config, "llm"), language_config(config), text_config(config, root)
    planned = _planned(config, "llm", [model.to_dict(), settings.to_dict(), _plain(text)])
    return _train(
        run,
        planned,
        lambda: train_language_model(settings, model, text, planned.folder, device=config.device),
    )


def _vlm(run: Experiment, root: Path | None, before: Planned | None) -> Planned:
    from foundry_bench.training.beside import Beside
    from foundry_bench.training.vlm_stage import train_vlm

    assert root is not None
    config = run.config
    model = vla_config(config)
    start = {"init_from": str(before.checkpoint)} if before is not None else {}
    settings = train_config(config, "vlm", start)
    share = float(config.vlm.text) if before is not None else 0.0
    text = text_config(config, root) if share else None
    beside = Beside(text=share, text_config=text, block=int(config.llm.block))
    seeing = {key: value for key, value in model.to_dict().items() if key not in _ACTING}
    learned = {key: value for key, value in settings.to_dict().items() if key != "init_from"}
    data = [root.name, int(config.vlm.answer_tokens), share, text and _plain(text)]
    planned = _planned(config, "vlm", [seeing, learned, data, before and before.inputs])
    return _train(
        run,
        planned,
        lambda: train_vlm(
            settings, model, root, planned.folder,
            answer_tokens=int(config.vlm.answer_tokens), beside=beside, device=config.device,
        ),
    )  # fmt: skip


def _train(run: Experiment, planned: Planned, work: Any) -> Planned:
    """Train a stage where it is not there yet, under a lock: another experiment may want the same."""
    done = planned.folder / "done"
    with only_one(planned.folder.with_name(f"{planned.folder.name}.lock")):
        if done.is_file() and (planned.checkpoint / "model.safetensors").is_file():
            run.say(f"{planned.name}: there already, {planned.folder}")
            with run.state.running(planned.name, planned.inputs) as output:
                output["checkpoint"] = str(planned.checkpoint)
            return planned
        run.say(f"{planned.name}: {planned.folder}")
        runtime.use_torch_threads(runtime.training_threads())
        with run.state.running(planned.name, planned.inputs) as output:
            work()
            done.touch()
            output["checkpoint"] = str(planned.checkpoint)
            output["measures"] = last_measures(planned.folder)
    for name, value in last_measures(planned.folder).items():
        if name.split("/")[-1] in ("perplexity", "qa_accuracy", "qa_blind", "qa_other_picture"):
            run.say(f"  {name} {value:.3f}" if value < 10 else f"  {name} {value:.1f}")
    return planned


def last_measures(folder: Path) -> dict[str, float]:
    """The measures of a run's last validation; empty where there was none."""
    import json

    found: dict[str, float] = {}
    log = folder / "train.jsonl"
    if log.is_file():
        for line in log.read_text(encoding="utf-8").splitlines():
            entry: Mapping[str, Any] = json.loads(line)
            if entry.get("event") == "validation":
                found = {k: v for k, v in entry.items() if k not in ("event", "step", "samples")}
    return found


def _planned(config: DictConfig, name: str, inputs: list[Any]) -> Planned:
    mark = fingerprint(inputs)
    return Planned(
        name, Path(config.paths.stages).expanduser() / f"{name}-{config.model.name}-{mark[:6]}", mark
    )


def vla_config(config: DictConfig) -> VLAConfig:
    """The configured VLA; FoundryError where the model is a baseline, which has no stages."""
    from foundry_bench.policies.config import VLAConfig
    from foundry_bench.policies.encoder_checks import check_speaks

    model = sections.model_config(config)
    if not isinstance(model, VLAConfig):
        raise FoundryError(
            f"model={model.name}: only a VLA has stages before the policy; choose model=foundry_nano, say"
        )
    check_speaks(model, "a stage before the policy")
    return model


def language_config(config: DictConfig) -> LMConfig:
    """The language model inside the configured VLA."""
    from foundry_bench.policies.lm_config import LMConfig

    model = vla_config(config)
    shared = (
        "vocab_size", "width", "heads", "kv_heads", "head_size", "layers", "hidden", "rope_base", "norm_eps",
        "qk_norm",
    )  # fmt: skip
    return LMConfig(
        name=f"{model.name}-llm",
        context=int(config.llm.block),
        **{key: getattr(model, key) for key in shared},
    )


def train_config(config: DictConfig, name: str, more: Mapping[str, Any] | None = None) -> TrainConfig:
    """How a stage before the policy is trained: its section, and the defaults of all training."""
    from foundry_bench.training.config import TrainConfig

    return TrainConfig.from_dict({**sections.values(config, name), **(more or {})})


def text_config(config: DictConfig, root: Path | None) -> TextConfig:
    """Which text is read; the simulator's is that of the image-text pairs, where there are any."""
    from foundry_bench.training.text_config import TextConfig

    given = config.llm.corpora
    corpora = OmegaConf.to_container(given) if given is not None else {"embedded": 1.0}
    assert isinstance(corpora, dict)
    if root is not None and "embedded" in corpora:
        share = corpora.pop("embedded")
        weight = share["weight"] if isinstance(share, dict) else share
        corpora = {
            "simulator": {"path": str(root.absolute()), "weight": weight / 2},
            "shakespeare": weight / 2,
            **corpora,
        }
    return TextConfig.from_dict({"corpora": corpora, "lowercase": True})


def _plain(text: TextConfig) -> list[Any]:
    """What decides the text, without where it lies."""
    specs = []
    for spec in text.corpora:
        fields = spec.to_dict()
        fields["path"] = Path(fields["path"]).name if fields["format"] == "simulator" else fields["path"]
        specs.append(fields)
    return [specs, text.tokenizer, text.lowercase, text.tokenizer_characters]
