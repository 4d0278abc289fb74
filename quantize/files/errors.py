"""The one error a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: what was found and needed, and a hint at what to do next.

    Raised anywhere, printed in one place (codegen_cli.commands.app) as two lines on stderr.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # shown under a traceback, where Python code raised it
