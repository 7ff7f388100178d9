"""Cost and memory against the size of the work; see `scale_bench.py`."""
