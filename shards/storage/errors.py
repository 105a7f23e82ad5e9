"""Classify the errors of object storage, of any library: whether to retry, and what to report."""

from __future__ import annotations

import errno
from typing import Any

_FINAL_KINDS = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)
_KEPT_KINDS = (*_FINAL_KINDS, TimeoutError, ConnectionError)
_FINAL_ERRNOS = {
    errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.EFBIG,
    # What s3fs makes of requests that a store will never take (400, 301, 501).
    errno.EINVAL, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOSYS,
    getattr(errno, "EREMCHG", errno.ENOENT),
}  # fmt: skip
# Names and not classes: the libraries of the stores are extras, and imported only when used.
_CREDENTIAL_ERRORS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "TokenRetrievalError", "SSOError",  # botocore
    "GoogleAuthError", "ClientAuthenticationError",
}  # fmt: skip
_USER_ERRORS = {"ParamValidationError", "InvalidRegionError"}
# What a store says of a request that was spoilt on its way, and s3fs takes for one it will not
# take. NoSuchUpload: the answer to an earlier attempt, which ended the upload, was lost.
_PASSING_CODES = {
    "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "RequestTimeout", "NoSuchUpload",
}  # fmt: skip
_PASSING_STATUSES = {408, 425, 429}  # of the answers that call the request wrong
_MEANINGS = {
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "it does not exist",
    "404": "it does not exist",
    "403": "access is denied",
    "AccessDenied": "access is denied",
    "InvalidAccessKeyId": "the object storage does not know the access key",
    "SignatureDoesNotMatch": "the secret key is wrong",
}


def is_passing(error: BaseException) -> bool:
    """Return whether another attempt may succeed."""
    if _store_code(error) in _PASSING_CODES:
        return True
    if 400 <= _http_status(error) < 500 and _http_status(error) not in _PASSING_STATUSES:
        return False
    if isinstance(error, OSError):
        return not isinstance(error, _FINAL_KINDS) and error.errno not in _FINAL_ERRNOS
    return _is_external(error) and not _names(error) & (_CREDENTIAL_ERRORS | _USER_ERRORS)


def waiting_may_mend(error: BaseException) -> bool:
    """Return whether an error that `shards.storage.files` raised after its retries may pass."""
    cause = error.__cause__  # the original error of the storage says more
    return is_passing(error) and (cause is None or is_passing(cause))


def named_error(error: Exception, what: str) -> Exception:
    """Return an error of a storage as a built-in one whose message says what failed, and on which
    URL.

    An OSError keeps its kind. Errors that name their local file, and errors of the program, are
    returned as they are.
    """
    if isinstance(error, OSError):
        if error.filename is not None:
            return error
        kind = next((kind for kind in _KEPT_KINDS if isinstance(error, kind)), OSError)
    elif isinstance(error, ValueError) or _names(error) & _USER_ERRORS:
        return ValueError(f"{what} failed: {reason(error)}")
    elif _is_external(error):
        kind = PermissionError if _names(error) & _CREDENTIAL_ERRORS else OSError
    else:
        return error
    remedy = ""
    if kind is PermissionError:
        remedy = "; check the credentials and what they may do there"
    named = kind(f"{what} failed: {reason(error)}{remedy}")
    named.errno = getattr(error, "errno", None)
    return named


def reason(error: BaseException) -> str:
    """Return one line. Object stores often say no more than a code, and s3fs then says "None"."""
    code = _store_code(error)
    if code in _MEANINGS:
        return f"{_MEANINGS[code]} ({code})"
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    if text in ("", "None"):
        text = "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    elif isinstance(error, FileNotFoundError) and " " not in text:
        text = f"{text} does not exist"
    return f"{text} ({code})" if code else text


def _store_code(error: BaseException) -> str:
    """Return the code of an S3 answer, such as NoSuchBucket; empty if there is none."""
    for candidate in (error, error.__cause__):
        response: Any = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _http_status(error: BaseException) -> int:
    """As aiohttp and gcsfs give it; 0 if there is none."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else 0


def _is_external(error: BaseException) -> bool:
    return isinstance(error, Exception) and type(error).__module__ != "builtins"


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
