"""`python -m mqttkit`, and the `mqttkit` command."""

import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line. An interrupt ends it with 130, even while its modules are being imported.

    SIGTERM interrupts like SIGINT, so that a command always cleans up.
    """
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        from mqttkit.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
