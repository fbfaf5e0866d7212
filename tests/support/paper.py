"""The NIR paper's published graphs and traces, beside the project; tests skip where the folder is absent."""

from __future__ import annotations

import pytest
from places import PAPER

FOLDER = PAPER
needs_paper = pytest.mark.skipif(not FOLDER.is_dir(), reason="the NIR paper's graphs (nir-paper) are not here")
