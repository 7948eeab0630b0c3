"""The one exception that a user's mistake raises, and the one accident that is told like it: a full disk."""

import contextlib
import errno
import os
from collections.abc import Iterator

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """A mistake that the user can mend; the commands show it without a traceback.

    The message names the file or field, what was found, what was expected and what to do.
    """


@contextlib.contextmanager
def mistakes_in(where: object) -> Iterator[None]:
    """Puts the place of what is read, which its reader does not know, before the message of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def is_full_disk(error: BaseException | None) -> bool:
    """Returns whether an error, or one that it came from, means a full disk, a used up quota or a size limit.

    The libraries that write for us (tensorstore, safetensors) raise errors that have only the words.
    """
    while error is not None:
        if getattr(error, "errno", None) in _NO_SPACE:
            return True
        if any(os.strerror(number) in str(error) for number in _NO_SPACE):
            return True
        error = error.__cause__ or error.__context__
    return False
