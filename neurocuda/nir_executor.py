"""`neurocuda.runtime.nir_executor` under the name that it had in version 0.1."""

import sys

from neurocuda.runtime import nir_executor
from neurocuda.runtime.nir_executor import Executor as Executor
from neurocuda.runtime.state import RunResult as RunResult

sys.modules[__name__] = nir_executor
