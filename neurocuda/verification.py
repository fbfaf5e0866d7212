"""`neurocuda.verify` under the name that it had in version 0.1."""

import sys

from neurocuda import verify
from neurocuda.verify import Report as Report

sys.modules[__name__] = verify
