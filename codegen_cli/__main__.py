"""The entry point of `codegen` and of `python -m codegen_cli`."""

import gc
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

FAILED = 1
CTRL_C = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


def main() -> NoReturn:
    """Run the command line and end the process; exit codes are listed in commands/app.py."""
    # Nearly all that start-up makes stays: looking for garbage in it again and again took a
    # twentieth of the time to the first token, as measured.
    gc.set_threshold(100_000)
    # NumPy's linear algebra starts threads that spin: a tenth of a second of CPU time, for nothing,
    # because no product here is NumPy's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _open_missing_streams()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from codegen_cli.commands.app import run

        run()
    except KeyboardInterrupt:  # before the commands were there to handle it
        _end_at_once(CTRL_C)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        _end_at_once(end.code or 0)
    _end_at_once(0)


def _open_missing_streams() -> None:
    """Let streams that the caller closed lead nowhere.

    Python has None for such a stream, and writes what is printed to stderr to stdout then; the
    system would give its number to the next file that is opened.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does, cleaning up on the way."""
    sys.exit(TERMINATED)


def _end_at_once(code: int) -> NoReturn:
    """Leave without waiting for threads: one may be compiling for seconds yet.

    Nor is anything freed piece by piece, of which a tokenizer has some hundred thousand: the system
    takes all back at once, 0.07 s sooner.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # what was to be told is lost
            code = code or FAILED
    os._exit(code)


if __name__ == "__main__":
    main()
