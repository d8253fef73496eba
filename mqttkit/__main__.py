"""`python -m mqttkit`, and the `mqttkit` command."""

import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line; an interrupt while it is still being loaded ends it as one later does.

    SIGTERM interrupts as SIGINT does, so that what a command has begun is always undone.
    """
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        from mqttkit.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
