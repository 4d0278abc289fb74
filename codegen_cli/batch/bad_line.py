"""What is wrong with one line: it becomes the line's answer, and the others go on."""


class BadLine(Exception):
    """A line that asks for what cannot be had.

    code     a word for programs; those of OpenAI's batches where they have one
    message  for people: what was found and needed
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
