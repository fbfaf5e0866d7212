"""Autocast: layers of the vendor library in the narrower dtype, state and neurons in float32."""

from __future__ import annotations

import pytest
import torch
from comparison import by_output, graph_of, tensors
from hypothesis import given
from strategies import Case, cases

from neurocuda import Discretization, Executor


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(case=cases())
def test_every_graph_runs_and_goes_on(case: Case, dtype: torch.dtype) -> None:
    net = Executor(
        graph_of(case.raw), Discretization(**case.discretization), force=dict.fromkeys(case.exact_layers, "library")
    )
    x = tensors(case.x)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        _, state = net(x)
        y, state = net(x, state)
    assert {t.dtype for t in by_output(net, y).values()} <= {torch.float32}
    assert {t.dtype for t in state.tensors.values()} <= {torch.float32}
