"""A prompt and a packed file's tokenizer -> ids and their bytes, in a process beside this one.

Parsing a tokenizer takes some 60 ms, in which the library lets no other Python code run; importing
NumPy and LLVM takes as long. Where two processes can share that, a text begins so much sooner.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from codegen_cli.contract.deadline import Deadline
from codegen_cli.machine.child_process import start_child
from codegen_cli.text.prompt import FittedPrompt, fit_prompt
from codegen_cli.text.vocabulary import Vocabulary
from quantize.packed.packed_header import PackedText

if TYPE_CHECKING:
    from codegen_cli.text.tokenizer import Tokenizer


class PromptProcess:
    """A child process that encodes a prompt at once, and tells bytes of ids until it is closed.

    packed                      the file whose tokenizer and context are meant
    max_tokens, special_tokens  as for `prompt.fit_prompt`

    Where there can be no child all is done here, when it is asked for; and so where a child fails:
    it says nothing of that, and whatever it met is met again here.
    """

    def __init__(
        self, packed: PackedText, prompt: str, *, max_tokens: int, special_tokens: bool
    ) -> None:
        self._packed = packed
        self._prompt = prompt
        self._max_tokens = max_tokens
        self._special_tokens = special_tokens
        self._known_bytes: dict[int, bytes] = {}
        self._tokenizer: Tokenizer | None = None
        self._child = start_child(self._work)

    def result(self, deadline: Deadline) -> tuple[FittedPrompt, Vocabulary]:
        """Wait for the prompt's ids.

        Raises UserError as Tokenizer and fit_prompt do, TimeUp, and what a signal handler raises.
        """
        answer = self._child.receive(deadline) if self._child else None
        if answer is None:
            fitted, tokenizer = self._encode()
            return fitted, tokenizer.vocabulary(self._packed.config)
        return FittedPrompt(*answer[0]), Vocabulary(self._token_bytes, *answer[1])

    def close(self) -> None:
        """End the child."""
        if self._child:
            self._child.close()
            self._child = None

    def _token_bytes(self, token_id: int) -> bytes:
        if token_id not in self._known_bytes:
            answer = self._child.ask(token_id) if self._child else None
            if answer is None:
                self._tokenizer = self._tokenizer or self._encode()[1]
                answer = self._tokenizer.token_bytes(token_id)
            self._known_bytes[token_id] = answer
        return self._known_bytes[token_id]

    def _work(self) -> Generator[Any, int, None]:
        """What the child does; `result` and `_token_bytes` are the other side of it."""
        fitted, tokenizer = self._encode()
        vocabulary = tokenizer.vocabulary(self._packed.config)
        token_id = yield tuple(fitted), vocabulary[1:]
        while True:
            token_id = yield vocabulary.token_bytes(token_id)

    def _encode(self) -> "tuple[FittedPrompt, Tokenizer]":
        from codegen_cli.text.tokenizer import Tokenizer  # by the process that needs it

        tokenizer = Tokenizer.from_packed(self._packed)
        fitted = fit_prompt(
            self._prompt,
            tokenizer,
            n_positions=self._packed.config.n_positions,
            max_tokens=self._max_tokens,
            special_tokens=self._special_tokens,
        )
        return fitted, tokenizer
