"""Weights from the Hugging Face hub: the local cache first, then one bounded question, then the download.

Asking for a file that is not cached makes the hub's client retry for most of a minute when there is no
network. Here a missing network is known after one request, so a user offline waits seconds at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ModelError


def fetch_weights(repo: str, filenames: Sequence[str], *, timeout: float, how_else: str) -> Path:
    """The local path of the first of `filenames` that a hub repository has.

    Args:
        repo: "owner/name", or "owner/name@revision".
        filenames: in order of preference.
        timeout: seconds for the hub to answer.
        how_else: what the user can do instead, for the error.

    Raises:
        ModelError: if it is not cached and the hub cannot be reached, or refuses, or lacks the files.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    name, _, revision = repo.partition("@")
    version = revision or None
    for filename in filenames:
        try:
            return Path(hf_hub_download(name, filename, revision=version, local_files_only=True))
        except EntryNotFoundError:  # LocalEntryNotFoundError among them: not cached
            continue
    for filename in filenames:
        try:
            get_hf_file_metadata(hf_hub_url(name, filename, revision=version), timeout=timeout)
            return Path(hf_hub_download(name, filename, revision=version, etag_timeout=timeout))
        except GatedRepoError as error:
            raise ModelError(
                "the owner of these weights asks for a licence to be accepted first",
                where=name,
                found=type(error).__name__,
                fix=f"accept it at huggingface.co/{name} and run `hf auth login`; or {how_else}",
            ) from error
        except RepositoryNotFoundError as error:
            raise ModelError(
                "the hub has no such model, or not for you",
                where=name,
                found=type(error).__name__,
                fix=how_else,
            ) from error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the client's HTTP library differs by version, and so do its errors
            raise ModelError(
                "the weights are not on this machine and could not be downloaded",
                where=name,
                found=f"{type(error).__name__}: {error}",
                expected="a network connection, or the weights in the local cache of the hub",
                fix=f"run `hf download {name}` where there is a network and copy the cache or the file; "
                f"or {how_else}",
            ) from error
    raise ModelError(
        "the model has no weight file", where=name, expected=" or ".join(filenames), fix=how_else
    )
