"""Benchmarks: ``python -m bench.run`` measures, ``python -m bench.report`` draws up what was measured."""
