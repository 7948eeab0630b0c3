import errno
import os

import pytest

from muq_jax.errors import is_full_disk


def raised_from(cause):
    try:
        try:
            raise cause
        except Exception as error:
            raise ValueError("the save failed") from error
    except ValueError as error:
        return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_known_by_number_by_words_and_by_its_cause(number):
    assert is_full_disk(OSError(number, "x"))
    assert is_full_disk(ValueError(f"... {os.strerror(number)} [os_error_code='1']"))
    assert is_full_disk(raised_from(OSError(number, "x")))


def test_other_errors_are_not_taken_for_a_full_disk():
    assert not is_full_disk(OSError(errno.EACCES, os.strerror(errno.EACCES)))
    assert not is_full_disk(raised_from(KeyError("params")))
