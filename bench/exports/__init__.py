"""A run for other tools, and as data frames."""
