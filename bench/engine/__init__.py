"""Drive workers: start them, prove what they run, measure block by block."""
