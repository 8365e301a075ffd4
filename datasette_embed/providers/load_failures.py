"""Load failures: what a library says when it cannot load a model, as what to do about it.

Layer 3: imports ``errors``. Whatever keeps a model from loading keeps it from every text, so
each is a ``CallRefusedError`` or says which package to install. Nothing is loaded here.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CallRefusedError, EmbedError, MissingDependencyError

#: ``pip install X Y`` in a library's message, up to the end of the command.
_PIP = re.compile(r"pip install ((?:[\w.\[\],-]+)(?: [\w.\[\],-]+)*?)(?=[`'\"]|\. |\.?$|\n)", re.M)
#: What transformers says of a name on the hub (``utils/hub.py``, 5.24), and what that means.
_SAID = (
    (
        "We couldn't connect to",
        "its files are not on this machine, and the hub that has them cannot be reached",
    ),
    (
        "is not a valid model identifier",
        "the hub has no model of this name, or shows it only to those who log in (hf auth login)",
    ),
)
_NO_PACKAGE = re.compile(r"^(?:pip|-.*)$")


def load_failure(model_id: str, error: Exception, *, trusts_code: bool = False) -> EmbedError:
    """Return the error to raise ``from`` what a library raised over loading a model.

    Args:
        trusts_code: code that comes with the model may be run.

    Returns:
        A MissingDependencyError that names the package, else a CallRefusedError. Only their
        ``detail`` quotes the library, whose messages hold paths.
    """
    text = str(error)
    if package := _missing_package(error):
        return MissingDependencyError(package, "")
    if not trusts_code and "trust_remote_code" in text:
        return CallRefusedError(
            model_id,
            "it comes with code of its own, which is not run unless its entry in the models file "
            "or in datasette.yaml says trust_remote_code: true. That lets its authors do with "
            "this machine whatever you may, so read the code first, and name its revision",
            detail=f"it comes with code of its own, and trust_remote_code is not set: {text}",
        )
    name = type(error).__name__
    for words, reason in _SAID:
        if words in text:
            return CallRefusedError(model_id, reason, detail=f"{reason} ({name}: {text})")
    return CallRefusedError(
        model_id,
        f"it cannot be loaded ({name}). The log says why",
        detail=f"it cannot be loaded ({name}): {text}",
    )


def check_folder(model_id: str, folder: Path) -> None:
    """Refuse a folder that is not there before a library says that a file of it is missing.

    Raises:
        CallRefusedError: only its ``detail`` holds the path.
    """
    if not folder.is_dir():
        raise CallRefusedError(
            model_id, "its folder is not there", detail=f"there is no folder {folder}"
        )


def _missing_package(error: Exception) -> str | None:
    """Return what to install, as pip is told it; None where that is not the trouble."""
    text = str(error)
    # Libraries of models say it in an ImportError, or in a bare Exception.
    said = _PIP.search(text) if isinstance(error, ImportError) or type(error) is Exception else None
    if said:
        packages = [word for word in said[1].split() if not _NO_PACKAGE.match(word)]
        return " ".join(f"'{name}'" if "[" in name else name for name in packages) or None
    if isinstance(error, ModuleNotFoundError) and error.name:
        return error.name.partition(".")[0]
    return None
