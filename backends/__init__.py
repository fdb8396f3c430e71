"""One file or folder per stack, and the protocol that they share.

Importing a module here imports no framework: frameworks are imported when a backend is opened, inside a worker. A new
stack is one new file or folder here, or in the folder that BENCH_BACKENDS names.
"""

from __future__ import annotations

import os

if os.environ.get("BENCH_BACKENDS"):
    # Absolute, because workers run in another folder; os.path, because pathlib would load more modules into them.
    os.environ["BENCH_BACKENDS"] = os.path.abspath(os.environ["BENCH_BACKENDS"])  # noqa: PTH100
    __path__.append(os.environ["BENCH_BACKENDS"])
