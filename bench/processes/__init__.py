"""What ends with the process that it belongs to, however that ends: locks, temporary folders, other processes."""
