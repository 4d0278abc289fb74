"""What a loaded model's tokenizer has of transformers' CodeGenTokenizer that no command needs."""

import re

import numpy as np
import pytest
from real_tokenizer import END_OF_TEXT_ID, TOKENIZER_JSON

from codegen_cli.text.codegen_tokenizer import CodeGenTokenizer, truncate_completion
from codegen_cli.text.tokenizer_options import TokenizerOptions
from quantize.files.errors import UserError


def tokenizer_with(**options):
    return CodeGenTokenizer.from_json(TOKENIZER_JSON, options=TokenizerOptions(**options))


TOKENIZER = tokenizer_with()


def test_special_tokens_have_the_ids_of_transformers():
    def ids(**options):
        tokenizer = tokenizer_with(**options)
        return tokenizer.unk_id, tokenizer.bos_id, tokenizer.end_of_text, tokenizer.pad_id

    assert ids() == (50256, 50256, 50256, None)
    assert ids(pad_token="<pad>") == (50256, 50256, 50256, 50295)
    assert ids(pad_token="!") == (50256, 50256, 50256, 0)
    assert ids(unk_token="Ġt", bos_token="<s>", eos_token="</s>") == (256, 50295, 50296, None)


def test_unk_token_stands_for_tokens_that_the_vocabulary_lacks():
    assert TOKENIZER.token_id("Ġt") == 256
    assert TOKENIZER.token_id("nonsense") == END_OF_TEXT_ID
    assert tokenizer_with(unk_token="!").token_id("nonsense") == 0


def test_inputs_are_the_arrays_of_transformers():
    texts = ["a", "a b c", ""]
    arrays = tokenizer_with(pad_token="<pad>", return_token_type_ids=True).inputs(texts)
    assert list(arrays) == ["input_ids", "attention_mask", "token_type_ids"]
    assert arrays["input_ids"].tolist() == [[64, 50295, 50295], [64, 275, 269], [50295] * 3]
    assert arrays["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert arrays["token_type_ids"].tolist() == [[0, 0, 0]] * 3
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}
    assert list(tokenizer_with(pad_token="!").inputs(texts)) == ["input_ids", "attention_mask"]


def test_texts_of_one_length_need_no_pad_token():
    assert TOKENIZER.inputs(["a", "b"])["input_ids"].tolist() == [[64], [65]]
    assert TOKENIZER.inputs([])["input_ids"].shape == (0, 0)
    with pytest.raises(UserError, match="differ in length and the tokenizer has no pad_token"):
        TOKENIZER.inputs(["a", "a b"])


COMPLETION = "def f():\n    pass\n\n# c\nprint(1)\ndef g():\nprint(2)<|endoftext|>"
# https://github.com/salesforce/CodeGen/blob/main/codegen1/jaxformer/hf/sample.py
AUTHORS = ["^#", re.escape("<|endoftext|>"), "^'''", '^"""', "\n\n\n"]


@pytest.mark.parametrize(
    ("patterns", "n_kept"),
    [
        ([], len(COMPLETION)),
        (AUTHORS, COMPLETION.index("# c")),
        (["pass"], COMPLETION.index("pass")),
        (["nowhere"], COMPLETION.index("def g")),
        (["x", "^print", "^    "], COMPLETION.index("    pass")),
        (["$"], len("def f():")),
    ],
)
def test_decoding_truncates_before_patterns_as_transformers_does(patterns, n_kept):
    ids = TOKENIZER.encode(COMPLETION, special_tokens=True)
    assert TOKENIZER.decode(ids, truncate_before_pattern=patterns) == COMPLETION[:n_kept]


def test_the_second_print_ends_a_completion_before_defs_are_counted():
    text = "def f\nprint\nprint\ndef g"
    assert truncate_completion(text, ["nowhere"]) == "def f\nprint\n"
    assert truncate_completion("x print\n def\nprint", ["nowhere"]) == "x print\n def\nprint"


def test_a_pattern_that_is_no_regular_expression_is_named():
    with pytest.raises(UserError, match=r"has '\(', need a regular expression: ") as raised:
        TOKENIZER.decode([64], truncate_before_pattern=["("])
    assert "re.escape" in raised.value.hint
