"""The entry point of `codegen` and of `python -m codegen_cli`."""

import contextlib
import gc
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

CTRL_C = 128 + signal.SIGINT


def main() -> NoReturn:
    """Run the command line and end the process; exit codes are listed in commands/app.py."""
    _use_utf8()
    # Nearly all that start-up makes stays: looking for garbage in it again and again took a
    # twentieth of the time to the first token, as measured.
    gc.set_threshold(100_000)
    # NumPy's linear algebra starts threads that spin: a tenth of a second of CPU time, for nothing,
    # because no product here is NumPy's.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    _forget_numba_settings()
    signal.signal(signal.SIGTERM, _terminate)
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:  # as nohup has it
        signal.signal(hang_up, _terminate)
    try:
        from codegen_cli.terminal.streams import open_streams

        open_streams()
        from codegen_cli.commands.app import run

        run()
    except KeyboardInterrupt:  # before the commands were there to handle it
        _end_at_once(CTRL_C)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        _end_at_once(end.code or 0)
    _end_at_once(0)


def _use_utf8() -> None:
    """Start anew in Python's UTF-8 mode where the locale has another encoding.

    Arguments and names of files are bytes, which Python reads by the locale: by Latin-1, "naïve" in
    UTF-8 is another word. Windows has them in UTF-8. Who calls Python with -X utf8=0 has that.
    """
    if (
        sys.platform != "win32"
        and sys.getfilesystemencoding() != "utf-8"
        and "utf8" not in sys._xoptions
        and sys.executable
    ):
        with contextlib.suppress(OSError):  # it cannot be started: then as well as it goes
            os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _forget_numba_settings() -> None:
    """For where no clean process is to be had, so that numba works in this one: as on Windows.

    Some settings change numbers or speed, print to stdout, or end the process inside LLVM.
    """
    for name in [name for name in os.environ if name.startswith("NUMBA_")]:
        del os.environ[name]


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does, cleaning up on the way."""
    sys.exit(128 + signal_number)


def _end_at_once(code: int) -> NoReturn:
    """Leave without waiting for threads: one may be compiling for seconds yet.

    Nor is anything freed piece by piece, of which a tokenizer has some hundred thousand: the system
    takes all back at once, 0.07 s sooner. All of the result is written by now (streams.py).
    """
    with contextlib.suppress(OSError):  # a message, such as it is without streams.py
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
