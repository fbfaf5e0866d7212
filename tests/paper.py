"""The NIR paper's published graphs and traces, beside the project; tests skip where the folder is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "nir-paper"
needs_paper = pytest.mark.skipif(not FOLDER.is_dir(), reason="the NIR paper's graphs (nir-paper) are not here")
