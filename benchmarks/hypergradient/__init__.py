"""The hypergradient benchmark: problems, methods and peers, measurement, and reports."""
