"""The one exception that a user's mistake raises; the commands show it without a traceback."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message names the file or field, what was found, what was expected and what to do.
    """
