"""Weights in the format of transformers: the same logits and the same text as transformers' own model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foundry_bench.errors import FoundryError
from foundry_bench.policies.generate import generate
from foundry_bench.policies.gguf_weights import INSTALL_SMOLLM2, convert_gguf, main, smollm2_gguf
from foundry_bench.policies.language_checkpoint import import_llama, load_language_model
from foundry_bench.policies.llama import load_llama, read_llama_config
from foundry_bench.policies.tokenizer import TextTokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}


def theirs(family: str = "Llama", **changes: Any) -> Any:
    """A small model of transformers with random weights whose logits differ clearly."""
    import transformers

    rope = {"rope_type": "default", "rope_theta": changes.pop("rope_theta", 10_000.0)}
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **changes}, rope_parameters=rope)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.2)
            else:
                parameter.data.uniform_(0.5, 1.5)
        model.tie_weights()
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(0, 101, (rows, length), generator=torch.Generator().manual_seed(1))


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped, untied": ("Llama", {}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "another base": ("Llama", {"rope_theta": 500_000.0}),
    "wide heads": ("Llama", {"head_dim": 12}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "queries and keys normalised": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize(("family", "changes"), list(CASES.values()), ids=list(CASES))
def test_logits_and_greedy_text_are_those_of_transformers(
    tmp_path: Path, family: str, changes: dict[str, Any]
) -> None:
    model = theirs(family, **changes)
    model.save_pretrained(tmp_path)
    ours, config = load_llama(tmp_path)
    assert config.parameters() == sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in ours.parameters()) == config.parameters()
    text = tokens(2, 24)
    with torch.no_grad():
        expected = model(text).logits
        found = ours.logits(ours.read_text(text)[0])
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    greedy = model.generate(
        text[:, :8], attention_mask=torch.ones(2, 8), max_new_tokens=20, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )[:, 8:]  # fmt: skip
    assert generate(ours, text[:, :8].tolist(), max_tokens=20) == greedy.tolist()


def test_an_imported_folder_is_a_checkpoint_of_the_llm_stage(tmp_path: Path) -> None:
    model = theirs(vocab_size=300, tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(FoundryError, match=r"cannot read .*tokenizer\.json"):
        import_llama(tmp_path / "theirs", tmp_path / "ours")
    own = TextTokenizer.train_on_text(["the bowl and the plate"], 280, 8)
    (tmp_path / "theirs" / "tokenizer.json").write_text(own.to_json())
    (tmp_path / "theirs" / "tokenizer_config.json").write_text('{"eos_token": "<pad>"}')
    with pytest.raises(FoundryError, match="theirs exists and is no checkpoint"):
        import_llama(tmp_path / "theirs", tmp_path / "theirs")
    checkpoint = load_language_model(import_llama(tmp_path / "theirs", tmp_path / "ours"))
    assert checkpoint.tokenizer.end == own.pad
    text = torch.tensor([own.encode_text("the plate and the bowl")])
    language = checkpoint.model.language
    with torch.no_grad():
        found = language.logits(language.read_text(text)[0])
        torch.testing.assert_close(found, model(text).logits, atol=1e-5, rtol=1e-5)
    assert "The language model theirs" in (tmp_path / "ours" / "README.md").read_text()
    larger = TextTokenizer.train_on_text(
        ["the bowl and the plate"], 320, 8, specials=[f"<{n}>" for n in range(50)]
    )
    (tmp_path / "theirs" / "tokenizer.json").write_text(larger.to_json())
    with pytest.raises(FoundryError, match=r"has 3\d\d tokens, more than model\.vocab_size=300"):
        import_llama(tmp_path / "theirs", tmp_path / "ours")


def test_shards_are_read(tmp_path: Path) -> None:
    model = theirs()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours, _ = load_llama(tmp_path)
    text = tokens(1, 12)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.logits(ours.read_text(text)[0]), model(text).logits, atol=1e-5, rtol=1e-5
        )


def test_weights_of_half_precision_are_read_as_asked(tmp_path: Path) -> None:
    model = theirs().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    ours, _ = load_llama(tmp_path)
    assert ours.embedding.weight.dtype == torch.float32
    half, _ = load_llama(tmp_path, torch.bfloat16)
    assert half.embedding.weight.dtype == torch.bfloat16
    assert torch.equal(half.embedding.weight.float(), ours.embedding.weight)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    theirs(tie_word_embeddings=True).save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, "model_type='gpt2' is not a language model that is read here"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"sliding_window": 64}, "sliding_window=64"),
        ({"model_type": "mistral"}, "sliding_window=4096"),
        ({"model_type": "mistral", "sliding_window": 64, "use_sliding_window": False}, "sliding_window=64"),
        ({"model_type": "qwen3", "sliding_window": 64, "use_sliding_window": True}, "sliding_window=64"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            "of type 'llama3' are not supported",
        ),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -1}}, "rope_theta=-1 must be above 0"),
        ({"rope_parameters": [1]}, "is no mapping"),
        ({"rms_norm_eps": None}, "config.json: rms_norm_eps=None must be above 0"),
        ({"rms_norm_eps": "small"}, "config.json: rms_norm_eps='small' must be above 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0 must be a whole number"),
        ({"hidden_size": "48"}, "hidden_size='48' must be a whole number"),
        ({"num_key_value_heads": 4}, r"config\.json: model\.kv_heads=4 does not divide"),
    ],
)
def test_what_our_blocks_do_not_do_is_refused(folder: Path, change: dict[str, Any], words: str) -> None:
    change_config(folder, **change)
    with pytest.raises(FoundryError, match=words):
        load_llama(folder)


def test_a_window_that_transformers_would_not_use_does_no_harm(folder: Path) -> None:
    change_config(folder, model_type="qwen3", sliding_window=64)
    assert read_llama_config(folder).qk_norm


def test_older_configs_keep_the_base_beside_the_other_keys(folder: Path) -> None:
    change_config(folder, rope_parameters=None, rope_theta=12_345.0, num_key_value_heads=None, head_dim=None)
    config = read_llama_config(folder)
    assert (config.rope_base, config.key_heads, config.size_of_head) == (12_345.0, 6, 8)


def rewrite(folder: Path, **changes: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__norm__weight": None}, r"missing model\.norm\.weight"),
        ({"model__layers__0__extra": torch.zeros(2)}, r"not in the model: model\.layers\.0\.extra"),
        ({"model__norm__weight": torch.zeros(47)}, r"model\.norm\.weight is \[47\] where .* wants \[48\]"),
        ({"model__norm__weight": torch.zeros(48, dtype=torch.int32)}, "is of type torch.int32"),
        ({"lm_head__weight": torch.zeros(101, 48)}, "says tie_word_embeddings, but lm_head.weight differs"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, changes: dict[str, Any], words: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(FoundryError, match=words):
        load_llama(folder)


def test_a_tied_head_that_was_saved_and_computed_tables_do_no_harm(folder: Path) -> None:
    table = load_file(folder / "model.safetensors")["model.embed_tokens.weight"].clone()
    rewrite(folder, lm_head__weight=table, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(4))
    ours, _ = load_llama(folder)
    assert torch.equal(ours.embedding.weight, table)


@pytest.mark.parametrize("damage", ["config gone", "config cut", "weights gone", "weights cut"])
def test_damaged_folders_are_named(folder: Path, damage: str) -> None:
    what, how = damage.split()
    path = folder / {"config": "config.json", "weights": "model.safetensors"}[what]
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FoundryError, match=path.name):
        load_llama(folder)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}, "is not a file of this folder"),
        ({"weight_map": {"model.norm.weight": "weights.bin"}}, "is not a file of this folder"),
        ({"weights": {}}, "index.json is damaged"),
        ([], "index.json is damaged"),
    ],
)
def test_an_index_may_only_name_files_of_its_folder(folder: Path, index: object, words: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FoundryError, match=words):
        load_llama(folder)


def test_a_shard_that_lacks_what_the_index_says_is_named(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    index = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_llama(folder)
    rewrite(folder, model__norm__weight=None)
    with pytest.raises(FoundryError, match=r"model\.safetensors has no tensor model\.norm\.weight"):
        load_llama(folder)


def test_a_gguf_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FoundryError, match="no such file"):
        convert_gguf(tmp_path / "none.gguf", tmp_path / "out")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(FoundryError, match=r"broken\.gguf (cannot be read|needs the package gguf)"):
        convert_gguf(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert main([str(broken), str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([]) == 2


def test_what_lies_beside_a_gguf_brings_no_code_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers reads the folder's tokenizer_config.json too, and would ask whether to run its code."""
    import transformers

    asked: list[dict[str, Any]] = []

    def refuse(*_: Any, **options: Any) -> None:
        asked.append(options)
        raise OSError("no model")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    monkeypatch.setitem(sys.modules, "gguf", transformers)  # whether it is installed is asked for first
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(FoundryError, match="no model"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "out")
    assert asked[0]["trust_remote_code"] is False


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf", reason=INSTALL_SMOLLM2)
    try:
        gguf = smollm2_gguf()
    except FoundryError:
        pytest.skip(INSTALL_SMOLLM2)
    return convert_gguf(gguf, tmp_path_factory.mktemp("smollm2") / "folder")


@pytest.mark.slow
def test_smollm2_says_what_it_says_in_transformers(smollm2: Path) -> None:
    import transformers

    ours, config = load_llama(smollm2)
    assert (config.layers, config.heads, config.key_heads, config.width) == (30, 9, 3, 576)
    tokenizer = TextTokenizer.from_folder(smollm2, 64)
    text = "The robot opens the drawer, takes the bowl out of it and"
    ids = tokenizer.encode_text(text)
    assert tokenizer.decode(ids) == text
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    assert their_tokenizer(text).input_ids == ids
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits
        found = ours.logits(ours.read_text(torch.tensor([ids]))[0])
    difference = (found - expected).abs().max().item()
    print(f"largest difference of a logit: {difference:.2e}, of logits up to {expected.abs().max():.1f}")
    assert difference < 1e-3
    greedy = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
    continued = generate(ours, [ids], max_tokens=24)[0]
    print(tokenizer.decode(continued))
    assert continued[: len(greedy)] == greedy
