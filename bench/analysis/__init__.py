"""From a recorded run to numbers and verdicts. Pure."""
