"""The demonstration: a network trained, a model converted, photographs filtered. ``python -m convkit demo``.

Needs scikit-learn, transformers and matplotlib (``pip install convkit[demo]``); downloads nothing.
"""
