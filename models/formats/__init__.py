"""Files of other tools: what kind a file is of, what it holds, and how that fits one of our networks."""
