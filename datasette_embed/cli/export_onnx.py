"""``models export-onnx``: a model of sentence-transformers as a folder for the provider ``onnx``.

Layer 11: the words around ``providers.onnx_export``.
"""

from __future__ import annotations

from pathlib import Path

import click

from ..providers.onnx_export import export_onnx
from .output import print_line, say


@click.command("export-onnx")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
def export_onnx_command(name: str, folder: Path) -> None:
    """Write the sentence-transformers model NAME into FOLDER, to be run without torch.

    NAME is its name on a hub or its folder. What is written is compared with the original.
    """
    exported = export_onnx(name, folder)
    limit = f", texts of up to {exported.max_tokens:,} tokens" if exported.max_tokens else ""
    print_line(str(exported.folder))
    say(
        f"{exported.size_bytes / 1e6:,.0f} MB, {exported.dimensions:,} dimensions{limit}. "
        f"Smallest cosine to the original's vectors: {exported.worst_cosine:.6f}"
    )
    say(f"To use it: datasette embed models register onnx {folder}")
