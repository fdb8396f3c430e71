"""Measure, compare and report the speed of software stacks on one machine."""

__version__ = "0.1.0"
