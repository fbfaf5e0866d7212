"""A trained PyTorch network becomes a spiking one: traced, calibrated, written as NIR.

`neurocuda.convert` is the function; the modules of this package are imported from it by name.
"""
