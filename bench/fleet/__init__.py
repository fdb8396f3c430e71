"""One report over many machines: the same run on each of them, behind a small driver."""
