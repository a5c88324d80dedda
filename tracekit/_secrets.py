"""Names that denote secrets: of headers, query parameters and arguments.

Names are compared in a normal form: in lower case, letters and digits only. ``X-Api-Key``, ``x_api_key``, ``apiKey``
and ``apikey[]`` all end in ``apikey``.
"""

from __future__ import annotations

from typing import Final

# Whole names, in normal form: they are too short, or too common as a part of other words.
_NAMES: Final = frozenset(
    """
    code cvc cvv hmac key otp pass pin samlart samlrequest samlresponse sid sig ticket totp
    """.split()  # noqa: SIM905 - a word a line would be a page
)
# Endings of a name, in normal form ...
_ENDINGS: Final = tuple(
    """
    accesskey accesskeyid apikey assertion auth authcode authkey authorization authorizationcode bearer
    codeverifier cookie credential credentials csrf encryptionkey jwt licensekey masterkey passcode passphrase
    passwd password privatekey pwd secret secretkey sessid sessionid sharedkey signature signingkey storagekey
    subscriptionkey token userpass xsrf
    """.split()  # noqa: SIM905 - a word a line would be a page
)
# ... and beginnings.
_BEGINNINGS: Final = ("secret", "session")
_NO_NAMES: Final[frozenset[str]] = frozenset()


def is_secret_name(name: str, more: frozenset[str] = _NO_NAMES) -> bool:
    """Return whether *name* denotes a secret; *more* holds further names, in normal form.

    Parts count, too: ``user[password]``, ``filter.token``.
    """
    words = [normal(name), *map(normal, name.replace("[", ".").split("."))]
    return any(
        word in _NAMES or word in more or word.endswith(_ENDINGS) or word.startswith(_BEGINNINGS)
        for word in words
        if word
    )


def normal(name: str) -> str:
    """Return *name* in its normal form."""
    return "".join(filter(str.isalnum, name.lower()))
