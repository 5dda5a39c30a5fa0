"""The command line: `marginals demo | train | sample | eval | convert | info | data`."""


def main() -> int:
    """Run the command line and return the exit code."""
    raise SystemExit("The command line is not here yet.")
