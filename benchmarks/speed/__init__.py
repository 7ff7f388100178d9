"""The pieces of `speed_bench.py`."""
