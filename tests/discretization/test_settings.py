"""Presets with changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from neurocuda import Discretization


@pytest.mark.parametrize(
    ("changes", "gain"),
    [
        ({}, "IF:1, LIF:g"),
        ({"gain": "r*g"}, "r*g"),
        ({"if_gain": "r"}, "IF:r, LIF:g"),
        ({"gain": {"CubaLIF": "g"}, "if_gain": "r*dt"}, "CubaLIF:g"),
    ],
)
def test_a_gain_replaces_that_of_a_preset(changes: dict[str, Any], gain: str) -> None:
    assert Discretization.norse(**changes).gain == gain


def test_replace_changes_the_gain() -> None:
    d = replace(Discretization(gain="r"), gain="g")
    assert (d.gain, d.gain_of("IF")) == ("g", "g")
    assert replace(Discretization.sinabs(), dt=2.0).gain == Discretization.sinabs().gain
    assert replace(d, if_gain="r*dt").gain == "LIF:g, CubaLIF:g"
