"""The process that runs a stack, in the stack's environment: standard library, NumPy, `backends` and `models` only."""
