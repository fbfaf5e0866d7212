"""What `import neurocuda` and the first calls import, and that every public name resolves when it is used."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from places import ROOT

import neurocuda
from neurocuda import Discretization, nn

DIGITS = ROOT / "examples/digits/digits.nir"
SAVED = ROOT / "tests/support/data/saved_by_0.1.pt"
HEAVY = {"h5py", "matplotlib", "networkx", "nir", "rich", "scipy", "torch.export", "triton", "typer"}
LOADED = "print(json.dumps(sorted(sys.modules)))"


def fresh(code: str, *arguments: object) -> str:
    """The standard output of a new process that runs `code`."""
    words = [sys.executable, "-c", f"import json, sys\n{code}", *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def of_torch() -> set[str]:
    return set(json.loads(fresh(f"import torch, numpy\n{LOADED}")))


def loaded(code: str, *arguments: object) -> set[str]:
    """The modules that `code` imports in a new process, without those that torch and numpy import."""
    return set(json.loads(fresh(f"import torch, numpy\n{code}\n{LOADED}", *arguments).splitlines()[-1])) - of_torch()


def test_importing_imports_little() -> None:
    modules = loaded("import neurocuda")
    assert not modules & HEAVY
    assert {m for m in modules if m.startswith("neurocuda")} <= {
        "neurocuda",
        "neurocuda._C",
        "neurocuda.convert",
        "neurocuda.errors",
        "neurocuda.ops",
        "neurocuda.ops.backends",
        "neurocuda.ops.coefficients",
        "neurocuda.ops.native",
        "neurocuda.ops.pointwise",
        "neurocuda.ops.reference",
        "neurocuda.ops.surrogate",
        "neurocuda.runtime",
        "neurocuda.runtime.state",
        "neurocuda.state",
        "neurocuda.version",
    }


def test_loading_a_file_imports_no_conversion() -> None:
    modules = loaded("import neurocuda\nneurocuda.load(sys.argv[1])", DIGITS)
    assert not modules & (HEAVY - {"h5py", "nir"})
    assert {m for m in modules if m.startswith(("neurocuda.convert", "neurocuda.cli"))} == {"neurocuda.convert"}


def test_the_help_of_the_command_imports_nothing_that_computes() -> None:
    code = "sys.argv[1:] = ['run', '--help']\nfrom neurocuda.cli import main\ntry: main()\nexcept SystemExit: pass"
    modules = loaded(code)
    assert not modules & (HEAVY - {"typer"})
    assert not {m for m in modules if m.startswith(("neurocuda.graph", "neurocuda.compiler", "neurocuda.convert."))}


def test_the_lazy_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse(Path(neurocuda.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert seen.pop("nn") == "neurocuda"
    assert seen == {name: f"neurocuda.{module}" for name, module in neurocuda._MODULE_OF.items()}
    immediate = {alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names}
    assert sorted({*seen, *immediate, "nn"} - {"import_module", "TYPE_CHECKING", "Any"}) == sorted(neurocuda.__all__)


def test_every_public_name_resolves() -> None:
    code = "import neurocuda\nprint(json.dumps({n: type(getattr(neurocuda, n)).__name__ for n in neurocuda.__all__}))"
    found = json.loads(fresh(code))
    assert found["convert"] == found["load"] == "function"
    assert (found["SNN"], found["nn"], found["__version__"]) == ("type", "module", "str")
    assert set(neurocuda.__all__) <= set(dir(neurocuda))
    with pytest.raises(AttributeError, match="module 'neurocuda' has no attribute 'nothing'"):
        neurocuda.nothing  # noqa: B018


STATED = """
import torch, neurocuda
assert callable(neurocuda.convert), "a module of the package convert was imported first"
torch.load(sys.argv[1], weights_only=True)
assert not sys.argv[2] or torch.ops.neurocuda.neuron
assert neurocuda.graph.Graph is neurocuda.Graph
import neurocuda.nir_executor, neurocuda.verification
assert neurocuda.nir_executor.Executor is neurocuda.Executor
assert neurocuda.compiler and neurocuda.discretization and neurocuda.quantization and neurocuda.verification.Report
"""


def test_names_that_are_not_in_the_table_resolve_too() -> None:
    built = "built" if hasattr(torch.ops.neurocuda, "neuron") else ""
    fresh(f"import neurocuda.convert.report{STATED}", SAVED, built)
    fresh("from neurocuda import *\nassert callable(convert) and callable(load) and nn.LIF")


def test_a_network_is_unpickled_and_an_exported_model_loaded_where_nothing_was_imported(tmp_path: Path) -> None:
    pickled, exported = tmp_path / "net.pickle", tmp_path / "model.pt2"
    pickled.write_bytes(pickle.dumps(neurocuda.load(DIGITS)))
    x = torch.rand(4, 2, 3)
    torch.export.save(torch.export.export(nn.LIF(2.0, discretization=Discretization(dt=1.0)), (x,)), exported)
    fresh("import pickle\npickle.load(open(sys.argv[1], 'rb'))", pickled)
    fresh("import torch, neurocuda\ntorch.export.load(sys.argv[1]).module()(torch.rand(4, 2, 3))", exported)
