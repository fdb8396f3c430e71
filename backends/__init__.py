"""One file or folder per stack, and the protocol that they share.

Importing a module here imports no framework: frameworks are imported when a backend is opened, inside a worker. A new
stack is one new file or folder here, or in the folder that BENCH_BACKENDS names.
"""
