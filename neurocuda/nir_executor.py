"""`neurocuda.runtime.nir_executor` under the name that it had in version 0.1."""

import sys

from neurocuda.runtime import nir_executor

sys.modules[__name__] = nir_executor
