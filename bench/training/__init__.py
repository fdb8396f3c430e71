"""One model: train, tune, evaluate, read and write files."""
