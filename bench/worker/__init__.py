"""What runs inside a stack's environment: the standard library, NumPy, `backends` and `models` only."""
