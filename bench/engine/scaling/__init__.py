"""Data-parallel training: groups of ranks that train one network together, with their framework's own engine."""
