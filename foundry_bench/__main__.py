"""``python -m foundry_bench`` is the ``foundry-bench`` command."""

import sys

from foundry_bench.cli import main

if __name__ == "__main__":  # spawned workers import this module again: they must not run the command
    sys.exit(main())
