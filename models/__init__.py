"""The CNNs as neutral data, with their weights, the NumPy oracle, the training recipes and the data sets."""
