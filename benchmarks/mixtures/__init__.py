"""Parts of ``benchmarks/gmm.py``: the contenders, and what is measured of their fits."""
