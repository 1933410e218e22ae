"""Tokenizers of running text, and other people's tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from foundry_bench.errors import FoundryError
from foundry_bench.policies.tokenizer import END, PAD, TextTokenizer, limited

TEXTS = [
    "The robot picks up the bowl.\n\nThen it puts the bowl on the plate.",
    "Open the Drawer; take the Mug out of the drawer.\tClose it.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
]
SHARED = TextTokenizer.train_on_text(TEXTS, 400, 16)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_text_comes_back_as_it_was(text: str) -> None:
    if PAD not in text and END not in text:
        assert SHARED.decode(SHARED.encode_text(text)) == text


def test_case_and_line_breaks_are_kept_unless_asked() -> None:
    assert SHARED.encode_text("Bowl") != SHARED.encode_text("bowl")
    lower = TextTokenizer.train_on_text(TEXTS, 400, 16, lowercase=True)
    assert lower.decode(lower.encode_text("The BOWL\nof")) == "the bowl\nof"


def test_merges_make_text_shorter_than_its_bytes() -> None:
    large = TextTokenizer.train_on_text(TEXTS, 400, 16)
    text = "The robot picks up the bowl."
    assert len(large.encode_text(text)) < len(text.encode()) / 2
    bytes_only = TextTokenizer.train_on_text(TEXTS, 258, 16)
    assert bytes_only.vocab_size == 258
    assert len(bytes_only.encode_text(text)) == len(text.encode())


def test_training_reads_an_iterator_once_and_gives_the_same_again() -> None:
    again = TextTokenizer.train_on_text(iter(TEXTS), 400, 16)
    assert again.to_json() == SHARED.to_json()
    assert TextTokenizer.from_json(again.to_json(), 16).encode_text(TEXTS[0]) == SHARED.encode_text(TEXTS[0])


def test_further_special_tokens_are_never_split() -> None:
    tokenizer = TextTokenizer.train_on_text(TEXTS, 400, 16, specials=["<image>"])
    ids = tokenizer.encode_text("a <image> here")
    assert [tokenizer.token(number) for number in ids].count("<image>") == 1
    assert tokenizer.decode(ids) == "a  here"
    assert tokenizer.decode(ids, keep_special=True) == "a <image> here"


def test_many_texts_are_encoded_as_each_alone() -> None:
    assert SHARED.encode_many(TEXTS) == [SHARED.encode_text(text) for text in TEXTS]


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(FoundryError, match=r"a vocabulary of 200 .* model\.vocab_size=258"):
        TextTokenizer.train_on_text(TEXTS, 200, 16)


def test_limited_texts_have_so_many_characters() -> None:
    assert list(limited(["abc", "defg", "h"], 5)) == ["abc", "de"]
    assert list(limited(["abc"], 5)) == ["abc"]


def gpt2_like(special: list[str]) -> Tokenizer:
    """As GPT-2's file: bytes, a space before words is part of them, an end token and nothing else."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["th"] = 256
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.enable_padding(length=50)
    tokenizer.enable_truncation(3)
    return tokenizer


def test_a_file_like_gpt2s_uses_its_end_for_padding() -> None:
    tokenizer = TextTokenizer.from_json(gpt2_like(["<|endoftext|>"]).to_str(), 8)
    assert tokenizer.end == tokenizer.pad == 257
    assert tokenizer.vocab_size == 258
    ids = tokenizer.encode_text("the other thing")  # neither cut nor padded, as the file says
    assert tokenizer.decode(ids) == "the other thing"
    rows, mask = tokenizer.encode(["the", ""])
    assert mask.sum(1).tolist() == [3, 1]  # th, e, end; the end token counts, padding with it does not
    assert rows[1].tolist() == [257] * 8


def llama_like() -> Tokenizer:
    """As Llama's file: a first token is added to every text."""
    tokenizer = gpt2_like(["<s>", "</s>", "<|finetune_right_pad_id|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def test_a_file_like_llamas_has_its_tokens_found() -> None:
    tokenizer = TextTokenizer.from_json(llama_like().to_str(), 8)
    assert tokenizer.token(tokenizer.end) == "</s>"
    assert tokenizer.token(tokenizer.pad) == "<|finetune_right_pad_id|>"
    plain = tokenizer.encode_text("the")
    assert tokenizer.encode_text("the", special=True) == [257, *plain]


def test_a_padding_token_of_our_name_does_not_make_a_file_ours() -> None:
    tokenizer = TextTokenizer.from_json(gpt2_like(["<pad>", "</s>"]).to_str(), 8)
    assert (tokenizer.token(tokenizer.pad), tokenizer.token(tokenizer.end)) == ("<pad>", "</s>")
    for damaged in (["<pad>"], ["<end>"]):
        with pytest.raises(FoundryError, match=r"mine\.json: tokenizer has no <pad> or <end> token"):
            TextTokenizer.from_json(gpt2_like(damaged).to_str(), 8, "mine.json")


def test_tokens_can_be_given() -> None:
    tokenizer = TextTokenizer.from_json(llama_like().to_str(), 8, pad="</s>", end="<s>")
    assert (tokenizer.token(tokenizer.pad), tokenizer.token(tokenizer.end)) == ("</s>", "<s>")
    with pytest.raises(FoundryError, match=r"no token '<|im_stop|>' for end"):
        TextTokenizer.from_json(llama_like().to_str(), 8, end="<|im_stop|>")
    with pytest.raises(FoundryError, match=r"mine\.json: tokenizer has no .* for end"):
        TextTokenizer.from_json(gpt2_like(["<odd>"]).to_str(), 8, "mine.json")


def test_a_folder_says_which_tokens_it_uses(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(llama_like().to_str())
    assert TextTokenizer.from_folder(tmp_path, 8).token(258) == "</s>"
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": {"content": "<s>"}, "pad_token": "</s>"}))
    tokenizer = TextTokenizer.from_folder(tmp_path, 8)
    assert (tokenizer.token(tokenizer.pad), tokenizer.token(tokenizer.end)) == ("</s>", "<s>")
    config.write_text("[]")
    with pytest.raises(FoundryError, match=r"tokenizer_config\.json is damaged"):
        TextTokenizer.from_folder(tmp_path, 8)
    with pytest.raises(FoundryError, match=r"cannot read .*tokenizer\.json"):
        TextTokenizer.from_folder(tmp_path / "nowhere", 8)
