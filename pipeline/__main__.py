"""The command's front door: ``framerail`` and ``python -m pipeline``."""

import signal

# Until the line runs and handles it, Ctrl-C simply ends the process: nothing is under way that
# would have to be finished, and a KeyboardInterrupt in the middle of an import says nothing of use.
signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> None:
    """Run the command."""
    from pipeline import cli

    cli.main()


if __name__ == "__main__":
    main()
