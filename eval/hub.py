"""What is on the hub and in its cache here; errors in words."""

from __future__ import annotations

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

TIMEOUT = 5.0  # seconds that the hub has to answer


def offline() -> bool:
    """Tell whether HF_HUB_OFFLINE forbids to ask the hub."""
    return bool(huggingface_hub.constants.HF_HUB_OFFLINE)


def cached(repository: str, file: str) -> str | None:
    """Return the path of a repository's file in the hub's cache, or None."""
    found = huggingface_hub.try_to_load_from_cache(repository, file)
    return found if isinstance(found, str) else None


def sizes(repository: str) -> dict[str, int]:
    """Ask the hub for the files of a repository: name → bytes."""
    info = huggingface_hub.HfApi().model_info(repository, files_metadata=True, timeout=TIMEOUT)
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def problem(repository: str) -> str | None:
    """Return why an id cannot be downloaded, or None when it can."""
    if offline():
        return "HF_HUB_OFFLINE is set"
    try:
        huggingface_hub.HfApi().model_info(repository, timeout=TIMEOUT)
    except Exception as error:  # every transport has exceptions of its own
        return reason(error)
    return None


def reason(error: Exception) -> str:
    """Say in a few words why the hub gave nothing."""
    if isinstance(error, GatedRepoError):  # before its parent, RepositoryNotFoundError
        return "gated on the hub (run `hf auth login`)"
    if isinstance(error, RepositoryNotFoundError):
        return "unknown to the hub"
    return f"the hub is out of reach ({type(error).__name__})"
