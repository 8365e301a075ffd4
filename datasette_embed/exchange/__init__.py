"""Collections as files: written and read as JSON Lines, CSV, numpy and Parquet.

Layer 8: imports ``database``, ``errors``, ``input_files``, ``models``, ``records``,
``registry``, ``schema``, ``sources``, ``store`` and ``vectors``. ``exporting`` and
``importing`` are the two directions, ``formats`` knows the formats by name, and each format
has a module; ``replacing`` puts whole files in place, and ``vector_tables`` reads tables of
vectors that other tools made. No word is printed and nothing is embedded here.
"""

from .exporting import ExportCounts, export_collection
from .formats import FileFormat, format_of, open_rows
from .importing import ImportCounts, import_rows
from .values import FileRow, Header, Rows
from .vector_tables import TableRows, TableSpec

__all__ = [
    "ExportCounts",
    "FileFormat",
    "FileRow",
    "Header",
    "ImportCounts",
    "Rows",
    "TableRows",
    "TableSpec",
    "export_collection",
    "format_of",
    "import_rows",
    "open_rows",
]
