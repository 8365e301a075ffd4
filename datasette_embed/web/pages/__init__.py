"""Pages: what people see in a browser, made of the answers that programs get.

Layer 11. One module per page; ``frame`` is what they share. A page asks the view of the API
of the same address for its answer, and adds what only a person needs.
"""
