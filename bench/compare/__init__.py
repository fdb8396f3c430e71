"""Compare runs with each other: two with intervals and verdicts, or many in the order of their dates."""
