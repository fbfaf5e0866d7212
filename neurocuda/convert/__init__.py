"""Converts trained PyTorch networks to spiking ones: tracing, calibration, NIR files.

`neurocuda.convert` is the function; the modules of this package are imported from it by name.
"""
