"""The entry point of `codegen` and of `python -m codegen_cli`."""

import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command line; exit codes are listed in commands/app.py."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from codegen_cli.commands.app import run

        run()
    except KeyboardInterrupt:  # before the commands are there to handle it
        sys.exit(130)


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does, cleaning up on the way."""
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
