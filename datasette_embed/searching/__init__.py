"""The k nearest entries of a collection.

Layer 6: imports ``store`` and lower. ``exact`` scans the vectors of the file; ``matrix`` keeps
them in memory and finds the same.
"""
