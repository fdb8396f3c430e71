"""Facts about this machine. Linux."""
