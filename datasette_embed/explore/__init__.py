"""What a collection's vectors say about each other: neighbours, pairs, clusters.

Layer 7: imports ``store`` and lower. ``neighbors`` finds the nearest entries of every entry,
``similarities`` keeps them in a table, ``clusters`` groups entries. No words for a terminal
belong here.
"""
