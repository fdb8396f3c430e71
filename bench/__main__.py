"""Run `python -m bench`."""

import sys
from pathlib import Path

if Path(sys.path[0]) == Path.cwd() != Path(__file__).parents[1]:
    # Where the command is typed. A file there may be called as a module that is needed.
    del sys.path[0]

from bench.cli import main

if __name__ == "__main__":
    main()
