"""Reads a trained torch model: its modules, functions and layers become a graph with rectifiers."""
