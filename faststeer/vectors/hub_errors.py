"""What huggingface_hub raises, in one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

LOG_IN = "give token= or HF_TOKEN, or log in with `hf auth login`"
_DOWN = 500  # the first status of a server that fails


@contextmanager
def in_words(repo_id: str) -> Iterator[None]:
    """Replace the errors of huggingface_hub, of releases 0.34 to 2, by sentences.

    Only its calls belong inside: errors of other code would be taken for those of the network.

    Raises:
        FileNotFoundError: no such repository (or a private one, and no token), revision or file.
        PermissionError: the hub refuses access.
        ConnectionError: the hub is not reached, switched off or down, and the cache has no copy.
        ValueError: a name that no repository can have.
        OSError: another answer of the hub, or a cache that cannot be written.
    """
    from huggingface_hub import errors

    # Failed connections are errors of httpx in huggingface_hub 1 and later, which HfHubHTTPError
    # inherits from; in 0.x they are errors of requests, which are OSErrors without a number.
    unreachable = (OSError, *errors.HfHubHTTPError.__bases__)
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{repo_id}: access has to be requested on the hub first; then {LOG_IN}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id}: the hub has no such repository, or it is private: {LOG_IN}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id}: the repository has no such revision; expected a branch, a tag or a "
            "commit's whole hash"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"{repo_id}: the hub cannot be reached or is switched off (HF_HUB_OFFLINE, "
            "local_files_only), and the cache has no copy of this file and revision"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise ConnectionError(f"{repo_id}: the hub is switched off (HF_HUB_OFFLINE)") from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{repo_id}: the repository has no such file there") from error
    except errors.HfHubHTTPError as error:
        code = getattr(error.response, "status_code", 0)
        if code in (401, 403):
            raise PermissionError(
                f"{repo_id}: the hub refuses access ({code}); {LOG_IN}"
            ) from error
        kind = ConnectionError if code >= _DOWN else OSError
        raise kind(f"{repo_id}: the hub answers {_one_line(error)}") from error
    except errors.HFValidationError:
        raise ValueError(
            f"{repo_id!r} is neither a folder nor a repository's name; expected user/vector"
        ) from None
    except unreachable as error:
        if getattr(error, "errno", None) is not None:  # of a file in the cache
            raise
        raise ConnectionError(
            f"{repo_id}: the hub cannot be reached ({_one_line(error)})"
        ) from error


@contextmanager
def upload_in_words(repo_id: str) -> Iterator[None]:
    """Raise OSError for an upload of a file that fails, a RuntimeError of huggingface_hub."""
    try:
        yield
    except RuntimeError as error:
        cause = "" if error.__cause__ is None else f" {_one_line(error.__cause__)}"
        raise OSError(f"{repo_id}: nothing was committed. {_one_line(error)}{cause}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
