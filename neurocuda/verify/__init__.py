"""Runs a NIR file under conditions that must not change a bit, and names the first value that differs."""

from neurocuda.verify.differences import Difference, first_difference, state_difference
from neurocuda.verify.file_order import rewrite_in_other_order
from neurocuda.verify.trials import Report, Trial, drawn_input, library_layers, verify

__all__ = [
    "Difference",
    "Report",
    "Trial",
    "drawn_input",
    "first_difference",
    "library_layers",
    "rewrite_in_other_order",
    "state_difference",
    "verify",
]
