"""One file per source of models; each file imports what it needs when it is first used.

Layer 3: a provider imports ``errors``, ``model_entries``, ``models``,
``presets``, ``prompts`` and ``threads``. Which models exist is
decided in ``registry``, so nothing is imported or registered here.
"""
