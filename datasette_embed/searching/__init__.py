"""The k nearest entries of a collection.

Layer 6: imports ``store`` and lower. ``exact`` scans every vector.
"""
