"""What checks an implementation: named cases, memory layouts, the float64 oracle and computed error bounds.

Used by the test suite and by ``python -m convkit check``. Nothing else in the package imports it.
"""
