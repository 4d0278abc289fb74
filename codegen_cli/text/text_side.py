"""A packed file's tokenizer -> prompts as ids, and ids as bytes; on demand in a process beside us.

Parsing a tokenizer takes some 60 ms, in which the library lets no other Python code run; importing
NumPy and LLVM takes as long. Where two processes can share that, a text begins so much sooner.
"""

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from codegen_cli.contract.deadline import Deadline
from codegen_cli.machine.child_process import Child, Parent, fork_child
from codegen_cli.text.prompt import FittedPrompt, fit_prompt
from codegen_cli.text.vocabulary import Vocabulary
from quantize.checkpoint.added_tokens import END_OF_TEXT
from quantize.packed.packed_header import PackedHeader, packed_text

if TYPE_CHECKING:
    from codegen_cli.text.codegen_tokenizer import CodeGenTokenizer


Reading = tuple[FittedPrompt, Vocabulary]


class Prompt(NamedTuple):
    """What is to be read; `prompt.fit_prompt` explains the rest."""

    text: str
    max_tokens: int
    special_tokens: bool = False

    @property
    def document(self) -> str:
        """What of the text belongs to the document that it ends in."""
        return self.text.rpartition(END_OF_TEXT)[2] if self.special_tokens else self.text


class TextSide:
    """What a packed file has for text.

    header  of the file
    ahead   a prompt that is to be read at once, by a child process, which then tells bytes of ids
            until this is closed

    Where there can be no child, and where one fails, all is done here when it is asked for: a child
    says nothing of its errors, and whatever it met is met again here. Raises UserError for a header
    that is not sound.
    """

    def __init__(self, header: PackedHeader, ahead: Prompt | None = None) -> None:
        self.header = header
        self.packed = packed_text(header)
        self._ahead = ahead
        self._last: tuple[Prompt, Reading] | None = None
        self._known_bytes: dict[int, bytes] = {}
        self._child: Child | None = None
        if ahead:
            other = fork_child()
            if isinstance(other, Parent):
                self._serve(other, ahead)  # and this copy ends
            else:
                self._child = other

    @property
    def is_ahead(self) -> bool:
        """Whether a child is at work."""
        return self._child is not None

    @cached_property
    def tokenizer(self) -> "CodeGenTokenizer":
        """The tokenizer, parsed here; raises UserError as Tokenizer.from_packed does."""
        from codegen_cli.text.codegen_tokenizer import CodeGenTokenizer  # where it is needed

        return CodeGenTokenizer.from_packed(self.packed)

    def read(self, prompt: Prompt, deadline: Deadline = None) -> Reading:
        """Return what of a prompt the model reads, and what its ids stand for.

        The samples of one prompt are asked for one after another: the last answer is kept. Raises
        UserError as Tokenizer and fit_prompt do, TimeUp, and what a signal handler raises.
        """
        last = self._last
        if last is None or last[0] != prompt:
            self._last = last = prompt, self._read(prompt, deadline)
        return last[1]

    def close(self) -> None:
        """End the child."""
        if self._child:
            self._child.close()
            self._child = None

    def _read(self, prompt: Prompt, deadline: Deadline) -> Reading:
        if self._child and prompt == self._ahead:
            self._ahead = None  # a child answers once
            answer = self._child.receive(deadline)
            if answer is not None:
                return FittedPrompt(*answer[0]), Vocabulary(self._token_bytes, *answer[1])
        return self._read_here(prompt)

    def _read_here(self, prompt: Prompt) -> Reading:
        config = self.packed.config
        fitted = fit_prompt(
            prompt.text,
            self.tokenizer,
            n_positions=config.n_positions,
            max_tokens=prompt.max_tokens,
            special_tokens=prompt.special_tokens,
        )
        return fitted, self.tokenizer.vocabulary(config)

    def _token_bytes(self, token_id: int) -> bytes:
        if token_id not in self._known_bytes:
            answer = self._child.ask(token_id) if self._child else None
            if answer is None:
                answer = self.tokenizer.token_bytes(token_id)
            self._known_bytes[token_id] = answer
        return self._known_bytes[token_id]

    def _serve(self, parent: Parent, ahead: Prompt) -> None:
        """What the child does; `read` and `_token_bytes` are the other side of it."""
        with parent:
            fitted, vocabulary = self._read_here(ahead)
            parent.answer((tuple(fitted), vocabulary[1:]))
            while (token_id := parent.question()) is not None:
                parent.answer(vocabulary.token_bytes(token_id))
