"""Collect what a machine without a network needs, in one folder with a script that installs it there."""
