"""Calls that are made again: recorded as programs on a CPU, captured as CUDA graphs on a GPU."""
