"""Our models inside other people's tools: one module for each tool.

Layer 9. Only the module of a tool imports that tool's package, and nothing else of ours
imports that module: whoever uses the tool does. Models of other tools inside this one
belong to ``providers``.
"""
