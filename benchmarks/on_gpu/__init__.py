"""The parts of `benchmarks.gpu`: cases and their bytes, clock, candidates, results, plot."""
