"""The command line: a lazy Click group and the one error boundary."""


def main() -> None:
    """Run the command line."""
