"""The executor: arguments, operands, the walk through a schedule, guards, state."""
