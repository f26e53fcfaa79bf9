"""A finished run's directory, copied to a hub repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jaxbert.errors import InputError
from jaxbert.training.run_directory import CHECKPOINTS, LOCK, UNFINISHED

_PRIVATE = (f"{CHECKPOINTS}/*", f"{UNFINISHED}/*", LOCK, ".*")


def check_repository(repository: str) -> None:
    """That somebody who may write is logged in, and the name can be one; before the work.

    Raises:
      InputError: the name is none.
      PermissionError: nobody is logged in.
      ConnectionError: the hub does not answer.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository):
        raise InputError(f"push_to_hub={repository!r}: want OWNER/NAME")
    _asked(lambda hub: hub.whoami())


def push(directory: Path, repository: str) -> str:
    """The model with all that belongs to it, without checkpoints; returns the address.

    Args:
      repository: made where it is missing, private.

    Raises:
      PermissionError, ConnectionError: as `check_repository`.
    """

    def upload(hub: Any) -> str:
        hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=directory, ignore_patterns=list(_PRIVATE))
        return f"https://huggingface.co/{repository}"

    return _asked(upload)


def _asked(what: Any) -> Any:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        return what(huggingface_hub.HfApi())
    except LocalTokenNotFoundError:
        raise PermissionError(
            "push_to_hub: nobody is logged in at the hub; run hf auth login, or set HF_TOKEN"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConnectionError(
            f"push_to_hub: the hub refuses or does not answer: {reason}"
        ) from error
