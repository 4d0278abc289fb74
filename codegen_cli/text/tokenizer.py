"""tokenizer.json -> text to ids and back; the only module that imports tokenizers."""

import threading
from collections.abc import Mapping, Sequence
from typing import Self

import tokenizers
from tokenizers import processors

from codegen_cli.text.token_text import (
    BYTE_OF_CHARACTER,
    bytes_of_token,
    check_unicode,
    not_utf8,
)
from codegen_cli.text.tokenizer_file import broken, judge_tokenizer
from codegen_cli.text.tokenizer_options import DEFAULTS, TokenizerOptions, options_from
from codegen_cli.text.vocabulary import Vocabulary
from quantize.checkpoint.added_tokens import END_OF_TEXT
from quantize.description.config import ModelConfig
from quantize.files.errors import UserError
from quantize.files.input_file import quoted, shown
from quantize.packed.packed_header import TOKENIZER, PackedText

_LONG_TEXT = 1 << 16  # characters


class Tokenizer:
    """A checkpoint's byte-level BPE; nothing is cut from any text, nor added without being asked.

    bos_id       the id of the options' bos_token, None where there is none
    end_of_text  likewise of eos_token; the ids of CodeGen's config.json name others
    first_ids    what `encode` puts in front: bos_id, or what the file says; mostly none

    May be used from several threads. codegen_tokenizer.py adds what transformers' has besides.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        options: TokenizerOptions = DEFAULTS,
        first_ids: Sequence[int] = (),
        n_dense: int = 0,
    ) -> None:
        self.options = options
        self._inner = inner
        self._reading = threading.Lock()  # guards encode_special_tokens, a state of `inner`
        self._n_dense = n_dense  # each id below it has a token
        self._missing_ids: dict[int, list[int]] = {}
        self._lacked_bytes = {
            byte for token, byte in BYTE_OF_CHARACTER.items() if inner.token_to_id(token) is None
        }
        self._unlearnt_ids = _make_special(inner, options)
        added = inner.get_added_tokens_decoder()
        self._special_ids = {i for i, token in added.items() if token.special}
        self._added_bytes = {
            i: token.content.encode()
            for i, token in added.items()
            if inner.model.token_to_id(token.content) is None
        }
        self.bos_id = self._id_of(options.bos_token)
        self.end_of_text = self._id_of(options.eos_token)
        self.first_ids = list(first_ids)
        if options.add_bos_token is not None:
            self.first_ids = self._bos_ids() if options.add_bos_token else []

    @classmethod
    def from_json(
        cls,
        data: bytes,
        where: str = "tokenizer.json",
        options: TokenizerOptions = DEFAULTS,
    ) -> Self:
        """Read the bytes of a tokenizer.json.

        `where` names them in an error. Raises UserError when they are not a tokenizer, one whose
        ids do not stand for bytes (streaming needs those) or not the ids that `tokenizers` gives.
        """
        judged = judge_tokenizer(data, where)
        try:
            inner = tokenizers.Tokenizer.from_buffer(data)
        except ValueError as error:
            raise broken(where, shown(str(error))) from error
        _check_added_tokens(inner, judged.added_ids, where)
        if isinstance(inner.post_processor, processors.TemplateProcessing):
            # What it puts in front was read; itself it panics at a template of a pair.
            inner.post_processor = processors.ByteLevel(trim_offsets=False)
        inner.no_truncation()
        inner.no_padding()
        if inner.model.unk_token == "":
            inner.model.unk_token = None  # or a character without a token is an error
        if options.add_prefix_space is not None:
            inner.pre_tokenizer.add_prefix_space = options.add_prefix_space
        return cls(inner, options, judged.first_ids, judged.n_dense)

    @classmethod
    def from_packed(cls, packed: PackedText) -> Self:
        """Return the tokenizer of a packed file, with its checkpoint's options."""
        where = f"{TOKENIZER} in {packed.path}"
        options = options_from(packed.tokenizer_settings, str(packed.path))
        return cls.from_json(packed.tokenizer_json, where, options)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return self._inner.get_vocab_size(with_added_tokens=True)

    def missing_ids(self, vocab_size: int) -> list[int]:
        """Return the ids below a model's vocab_size that no token has, ascending.

        The model's head scores them (CodeGen pads 50295 tokens to 51200 rows), but nothing may
        sample them. Raises UserError when an id that text may have is not below vocab_size: then
        the model and the tokenizer do not belong together. A special token may lie beyond, for it
        stands in no text: padding was often added to a tokenizer and not to its model.
        """
        if vocab_size not in self._missing_ids:
            unsure = range(min(self._n_dense, vocab_size), vocab_size)
            missing = [
                i for i in unsure if i in self._unlearnt_ids or self._inner.id_to_token(i) is None
            ]
            if vocab_size - len(missing) + len(self._unlearnt_ids) < self.vocab_size:
                self._check_ids_below(vocab_size)
            self._missing_ids[vocab_size] = missing
        return self._missing_ids[vocab_size]

    def end_ids(self, eos_token_id: Sequence[int]) -> frozenset[int]:
        """Return the ids that end a text: `<|endoftext|>`, and the special ones of a config's.

        Ordinary tokens of an eos_token_id end nothing: CodeGen2's is 2, the token `#`.
        """
        ends = self._special_ids.intersection(eos_token_id)
        return frozenset(ends if self.end_of_text is None else {self.end_of_text, *ends})

    def vocabulary(self, config: ModelConfig) -> Vocabulary:
        """Return what generating with a model of this config needs; UserError as missing_ids."""
        return Vocabulary(
            self.token_bytes,
            self.options.errors,
            self.end_ids(config.eos_token_id),
            self.missing_ids(config.vocab_size),
        )

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """Return the ids of a text, behind first_ids.

        special_tokens  read `<|endoftext|>`, and any other special token, as its own id; it is
                        ordinary text otherwise, as it must be in text from anywhere

        Raises UserError for a text with lone surrogates.
        """
        return self.first_ids + self._encode(text, special_tokens).ids

    def encode_with_starts(
        self, text: str, *, special_tokens: bool = False
    ) -> tuple[list[int], list[int]]:
        """Return the ids and, for each, the index of the first character it covers.

        As `encode`, but without first_ids. A character of several ids is the start of all of them.
        The start may skip leading blanks where the file's `trim_offsets` says so.
        """
        encoding = self._encode(text, special_tokens, with_starts=True)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, unknown ones giving nothing; never cleaned up.

        Bytes that are not UTF-8 are treated as the options' errors say. Raises UserError for them
        if that is "strict".
        """
        try:
            return b"".join(map(self.token_bytes, ids)).decode(errors=self.options.errors)
        except UnicodeDecodeError as error:
            raise not_utf8(error) from error

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that one id adds to a text, b"" for an id without a token.

        A token of the vocabulary is spelled by bytes, one that was added as it reads.
        """
        added = self._added_bytes.get(token_id)
        if added is not None:
            return added
        token = self._inner.id_to_token(token_id)
        return b"" if token is None else bytes_of_token(token)

    def _encode(
        self, text: str, special_tokens: bool, with_starts: bool = False
    ) -> tokenizers.Encoding:
        with self._reading:
            self._inner.encode_special_tokens = not special_tokens
            try:
                encoding = self._encode_now(text, with_starts)
            except TypeError:  # what the library makes of lone surrogates
                check_unicode(text)
                raise
        if self._lacked_bytes:
            self._check_nothing_lost(text, encoding.ids)
        return encoding

    def _encode_now(self, text: str, with_starts: bool) -> tokenizers.Encoding:
        if with_starts or len(text) <= _LONG_TEXT:
            return self._inner.encode(text, add_special_tokens=False)
        # Takes seconds: unlike encode, a batch lets the thread run that waits for Ctrl-C.
        [encoding] = self._inner.encode_batch_fast([text], add_special_tokens=False)
        return encoding

    def _check_nothing_lost(self, text: str, ids: Sequence[int]) -> None:
        """Refuse bytes that the vocabulary lacks: the library drops them without a word."""
        given, kept = text.encode(), b"".join(map(self.token_bytes, ids))
        for byte in sorted(self._lacked_bytes):
            if kept.count(byte) < given.count(byte):
                raise UserError(
                    f"the tokenizer has no token for byte 0x{byte:02X}, which the text has",
                    "Use the tokenizer.json of a CodeGen or GPT-J checkpoint.",
                )

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self._inner.token_to_id(token)

    def _bos_ids(self) -> list[int]:
        """bos_id, if the options say that there is one."""
        if self.options.bos_token is None:
            return []
        if self.bos_id is None:
            raise UserError(
                f"add_bos_token: the tokenizer has no {quoted(self.options.bos_token)}",
                "Give TokenizerOptions(bos_token=...) too.",
            )
        return [self.bos_id]

    def _check_ids_below(self, vocab_size: int) -> None:
        ids = self._inner.get_vocab(with_added_tokens=True).values()
        largest = max(set(ids) - self._special_ids, default=-1)
        if largest >= vocab_size:
            raise UserError(
                f"the tokenizer has ids up to {largest}, need ids below vocab_size {vocab_size}",
                "The tokenizer does not belong to this model: use the one of its checkpoint.",
            )


def _check_added_tokens(
    inner: tokenizers.Tokenizer, declared: Mapping[str, int], where: str
) -> None:
    """Refuse added tokens that the library numbers otherwise than the file, which it does silently.

    Their ids choose rows of the model's embedding, so another number is another token.
    """
    for token, token_id in declared.items():
        given = inner.token_to_id(token)
        if given != token_id:
            raise UserError(
                f"{where}: the added token {quoted(token)} has id {quoted(token_id)}, need {given}",
                "The ids of added tokens must go on from the vocabulary's, in order, without gaps.",
            )


def _make_special(inner: tokenizers.Tokenizer, options: TokenizerOptions) -> set[int]:
    """Make the options' tokens special; return the ids of those that the file lacks.

    Some files do not call even `<|endoftext|>` special: text could then not hold these characters.
    """
    lacked = [token for token in options.special_tokens if inner.token_to_id(token) is None]
    if END_OF_TEXT in lacked:  # a default only: whoever leaves it out has no such token
        lacked.remove(END_OF_TEXT)
    special = {
        token.content for token in inner.get_added_tokens_decoder().values() if token.special
    }
    known = [token for token in options.special_tokens if inner.token_to_id(token) is not None]
    inner.add_special_tokens([token for token in [*known, *lacked] if token not in special])
    return {i for i in map(inner.token_to_id, lacked) if i is not None}
