"""The config.json of a model on the Hugging Face hub: that one file, never weights, never code."""

from __future__ import annotations

import re
import socket
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Final

from flopwatch.errors import InputError, MissingError, UnknownModelError

_NAME: Final = re.compile(r"hf:[\w.-]+(/[\w.-]+)?")
_CONNECT_TIMEOUT_S: Final = 5.0


def fetch_config(name: str) -> Path:
    """The path of the config.json of `hf:ORG/NAME`, from the hub or, without a network, from the hub's local cache.

    Raises MissingError (exit code 4) without huggingface_hub, or when the hub and the cache cannot give the file.
    """
    if _NAME.fullmatch(name) is None:
        raise InputError(f"{name!r} names no model on the hub", hint="write it like hf:openai-community/gpt2")
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise MissingError(f"{name} needs huggingface_hub", hint="pip install 'flopwatch[hf]'") from error
    is_online = _is_reachable(constants.ENDPOINT)
    try:
        path = huggingface_hub.hf_hub_download(name.removeprefix("hf:"), "config.json", local_files_only=not is_online)
    except errors.LocalEntryNotFoundError as error:
        endpoint = constants.ENDPOINT
        raise MissingError(
            f"{name} cannot be fetched: {endpoint} is not reachable and its cache has no copy",
            hint="give the path of a config.json instead",
        ) from error
    except errors.GatedRepoError as error:
        raise MissingError(
            f"{name} is gated: the hub gives its files only to those it let in",
            hint="log in with `hf auth login`, or give the path of a config.json",
        ) from error
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise UnknownModelError(
            f"the hub has no config.json of {name}", hint="check its name, like hf:openai-community/gpt2"
        ) from error
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise MissingError(
            f"{name} cannot be fetched: {reason}", hint="give the path of a config.json instead"
        ) from error
    return Path(path)


def _is_reachable(endpoint: str) -> bool:
    """Whether a connection can be made: the hub's client would try for half a minute before it says so."""
    if urllib.request.getproxies().keys() - {"no"}:
        return True  # only the proxy can tell
    address = urllib.parse.urlsplit(endpoint)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True
