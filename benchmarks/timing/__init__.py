"""Parts of ``benchmarks/timing_graph.py``: statistical static timing of a random circuit."""
