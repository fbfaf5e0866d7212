"""Conversion of trained networks: the data, the networks and their training, the methods that are compared."""
