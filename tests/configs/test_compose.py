"""Composition, checking and naming of configurations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry_bench.configs.compose import compose, describe, flatten, groups
from foundry_bench.configs.keys import ALIASES, HARMLESS, KEYS
from foundry_bench.configs.overrides import parse
from foundry_bench.errors import FoundryError


def refusal(*words: str) -> str:
    with pytest.raises(FoundryError) as caught:
        compose(words)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_the_quick_scale_of_libero() -> None:
    config = compose([])
    assert (config.suite, config.scale, config.experiment) == ("libero", "quick", "libero-quick")


@pytest.mark.parametrize("scale", ["smoke", "quick", "laptop", "paper"])
def test_every_scale_composes_and_any_number_it_sets_can_be_overridden(scale: str) -> None:
    assert compose([f"scale={scale}"]).scale == scale
    config = compose([f"scale={scale}", "demos.per_task=3", "train.samples=7", "eval.episodes=2"])
    assert (config.demos.per_task, config.train.samples, config.eval.episodes) == (3, 7, 2)


def test_order_of_words_does_not_matter() -> None:
    assert compose(["eval.episodes=3", "scale=paper"]) == compose(["scale=paper", "eval.episodes=3"])


def test_paper_is_the_full_protocol() -> None:
    config = compose(["scale=paper"])
    assert (config.demos.per_task, config.eval.episodes, config.tasks) == (50, 50, None)
    assert (config.protocol.image_size, config.protocol.render_profile) == (256, "exact")
    assert (config.demos.image_size, config.model.image_size) == (256, 256)


def test_suite_without_a_file_of_its_own_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    import foundry_bench.envs.suites as suites

    monkeypatch.setattr(suites, "suite_names", lambda: ["libero_goal", "libero_goal_swap"])
    assert compose(["suite=libero_goal_swap"]).experiment == "libero_goal_swap-quick"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("suite=libero_spatal", "libero_spatial"),
        ("scale=qick", "quick"),
        ("model=val", "vla"),
        ("train.sample=3", "train.samples"),
        ("samples=3", "train.samples"),
        ("trian.samples=3", "train.samples"),
        ("train.samples=abc", "a whole number"),
        ("demos.noise=much", "a number"),
        ("debug=yes", "true or false"),
        ("demos.per_task=-1", "at least 1"),
        ("demos.per_task=2.5", "a whole number"),
        ("eval.episodes=51", "from 1 to 50"),
        ("demos.noise=nan", "from 0 to 1"),
        ("protocol.render_profile=exat", "exact"),
        ("protocol.cameras=[agentview,3]", "a word"),
        ("protocol=5", "known: foundry"),
        ("paths=5", "paths.results"),
        ("tasks=abc", "tasks=[0,3]"),
        ("tasks=[]", "tasks=[0,3]"),
        ("device=gpu", "cuda"),
        ("seed=-1", "from 0"),
        ("seed=null", "a whole number"),
        ("experiment=a/b", "without slashes"),
        ("eval.replan=9", "model.horizon=8"),
        ("demos.image_size=64", "protocol.image_size=96"),
        ("+new.key=1", "not added"),
        ("~train", "not added or removed"),
        ("--suite=libero", "suite=libero"),
        ("train.samples=1,2", "[1,2]"),
        ("train.samples=", "missing"),
        ("train.samples", "key=value"),
        ("train.samples=[1", "cannot be read"),
    ],
)
def test_mistake_names_the_word_and_the_way_out(word: str, said: str) -> None:
    message = refusal(word)
    assert said in message
    assert word.split("=")[0].lstrip("+~-").split(".")[0] in message


def test_aliases_and_sections() -> None:
    assert compose(["eval.replan=5"]).protocol.replan == 5
    assert compose(["paths={results: out}"]).paths.data == "out/data"
    assert compose(["protocol.max_steps={libero_goal: 5}"]).protocol.max_steps.libero_goal == 5
    assert compose(["train.samples=1e5"]).train.samples == 100_000
    assert compose(["tasks=3"]).tasks == [3]


def test_paths_may_hold_what_the_grammar_would_stumble_over() -> None:
    assert compose(["paths.results=/tmp/my results (new)"]).paths.results == "/tmp/my results (new)"  # noqa: S108
    assert compose(["checkpoint='a b'"]).checkpoint == "a b"
    assert compose(["experiment=007"]).experiment == "007"


def test_name_changes_with_what_moves_numbers_and_only_with_that() -> None:
    plain = compose([]).experiment
    for harmless in ("device=cpu", "eval.workers=1", "debug=true", "paths.results=x", "train.batch_size=32"):
        assert compose([harmless]).experiment == plain, harmless
    names = {compose([word]).experiment for word in ("seed=1", "seed=2", "tasks=[0]", "model=vla-l1")}
    assert len(names) == 4
    assert all(name.startswith(plain + "-") for name in names)


def test_documented_keys_exist_and_defaults_obey_their_bounds() -> None:
    leaves = flatten(compose([]))
    for name in KEYS:
        assert ALIASES.get(name, name) in leaves, name
    for name in HARMLESS:
        assert any(leaf == name or leaf.startswith(name + ".") for leaf in leaves), name


def test_groups_are_those_of_the_folder() -> None:
    assert {"suite", "scale", "model", "data", "train", "protocol", "executor"} <= set(groups())


def test_composed_config_cannot_be_changed() -> None:
    from omegaconf.errors import ReadonlyConfigError

    with pytest.raises(ReadonlyConfigError):
        compose([]).suite = "libero_goal"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["a", "libero_goal"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2)
        ),
        max_leaves=5,
    )
)
@settings(max_examples=50, deadline=None)
def test_described_values_are_read_back(value: object) -> None:
    assert parse(f"tasks={describe(value)}").value == value


@given(st.text(alphabet="abc=.[]{}(),:'\"+~-1 \\$", max_size=12))
@settings(max_examples=150, deadline=None)
def test_no_word_raises_anything_but_a_plain_error(word: str) -> None:
    try:
        compose([word])
    except FoundryError as error:
        assert "\n" not in str(error)
