"""The CNNs as neutral data, their weights, the NumPy oracle, the recipes and the data sets."""
