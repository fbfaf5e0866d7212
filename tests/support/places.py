"""Where things are: the project, and the NIR paper's files beside it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT.parent / "shared" / "nir-paper"
