"""Hub files: the folder that holds a model of a hub, downloaded if it is not there yet.

Layer 3: imports ``errors`` and ``onnx_files``. huggingface_hub, which tokenizers brings along,
finds the hub (``HF_ENDPOINT``), its cache (``HF_HOME``) and a token by its own rules, and shows
the progress of a download on stderr. Only what an ONNX model needs is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import CallRefusedError, MissingDependencyError, ProviderError
from .onnx_files import GRAPHS, SMALL_FILES, TOKENIZERS

#: A name without an owner is one of these, as sentence-transformers has it.
DEFAULT_OWNER = "sentence-transformers"


def fetch(model_id: str, name: str, *, file: str | None, revision: str | None) -> Path:
    """Return the folder of a model's files, from the cache if they are all there.

    What has been downloaded once stays the same until somebody clears the cache, so that the
    vectors of one name do not change under a site.

    Args:
        model_id: what errors are about.
        name: the model's name on the hub.
        file: path of the graph in it; None for the usual ones.
        revision: branch, tag or commit; None for what is newest when it is downloaded.

    Raises:
        CallRefusedError: the hub has no such model, or does not give it to us.
        ProviderError: the hub cannot be reached.
        MissingDependencyError: huggingface_hub is not installed.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "") from error
    repository = name if "/" in name else f"{DEFAULT_OWNER}/{name}"

    def download(patterns: Sequence[str], revision: str | None) -> Path:
        try:
            return Path(
                hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns))
            )
        except Exception as error:
            raise _translated(hub.utils, model_id, repository, revision, error) from error

    folder = download(SMALL_FILES, _cached_commit(hub, repository, revision) or revision)
    # One after the other: each is a large file, and many repositories have several of them.
    for names in (TOKENIZERS, (file,) if file else GRAPHS):
        for wanted in names:
            # The folder is called like its commit: all files are of that one.
            download([*SMALL_FILES, wanted, f"{wanted}_data*", f"{wanted}.data*"], folder.name)
            if (folder / wanted).is_file():
                break
    return folder


def cached_commit(name: str, revision: str | None, cache: str | None = None) -> str | None:
    """Return the commit of which something of this model is in the cache, else None.

    Nothing is asked of the hub.

    Args:
        cache: its folder, for a library that has one of its own; None for the usual one.
    """
    try:
        import huggingface_hub as hub
    except ImportError:
        return None
    # Some names without an owner are models of nobody's: bert-base-uncased.
    repositories = (name,) if "/" in name else (f"{DEFAULT_OWNER}/{name}", name)
    found = (_cached_commit(hub, name, revision, cache) for name in repositories)
    return next((commit for commit in found if commit), None)


def _cached_commit(
    hub: Any, repository: str, revision: str | None, cache: str | None = None
) -> str | None:
    """Return the commit of which something is in the cache, None if there is nothing."""
    try:
        found = hub.snapshot_download(
            repository,
            revision=revision,
            cache_dir=cache,
            local_files_only=True,
            allow_patterns=[],
        )
    except (hub.utils.LocalEntryNotFoundError, hub.utils.HFValidationError):
        return None
    return Path(found).name


def _translated(
    utils: Any, model_id: str, repository: str, revision: str | None, error: Exception
) -> ProviderError:
    """Return the error of ours for what huggingface_hub raised, whose text may be very long."""
    if isinstance(error, utils.HFValidationError):
        return CallRefusedError(model_id, f"{repository!r} cannot be the name of a model on a hub")
    if isinstance(error, utils.GatedRepoError):
        return CallRefusedError(
            model_id,
            f"the hub shows {repository} only to those who accepted its terms. Accept them on its "
            "page, then sign in on this machine: hf auth login",
        )
    if isinstance(error, utils.RepositoryNotFoundError):
        return CallRefusedError(model_id, f"the hub has no model {repository}, or not for everyone")
    if isinstance(error, utils.RevisionNotFoundError):
        return CallRefusedError(model_id, f"{repository} has no revision {revision!r} on the hub")
    return ProviderError(
        model_id,
        f"{repository} cannot be downloaded from the hub now. The log says why",
        detail=f"{repository} cannot be downloaded from the hub now: {_first_words(error)}",
        retryable=True,
    )


def _first_words(error: Exception) -> str:
    """Return what an error says in one line; huggingface_hub's have several."""
    cause: BaseException = error.__cause__ or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
