"""The fate of the spans that leave the buffer, by the exporter's account."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from .._core.records import Account
from .._core.stdlib import NamedTuple
from .stand_ins import account_of
from .threads import keep

if TYPE_CHECKING:
    from .exporter import Exporter
    from .notices import Notices


class Counts(NamedTuple):
    """The fate of spans that left the buffer."""

    exported: int = 0
    failed: int = 0
    unsampled: int = 0
    dropped: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*map(operator.add, self, other))


def valid_account(exporter: Exporter, notices: Notices, previous: Account) -> Account:
    """Return the account of *exporter*, or *previous* if it is not valid, which is reported once."""
    try:
        return account_of(exporter)
    except BaseException as error:  # from the user's code
        keep(error)
        notices.raised("account()", exporter, error)
        return previous


class Intake:
    """An exporter, and the fate of the spans that were handed to it."""

    def __init__(self, exporter: Exporter, notices: Notices) -> None:
        self.exporter = exporter
        self._notices = notices
        self._taken = self._failed = self._left_out = 0
        self._before = self._account = Account()
        self._before = self._account = self.ask()

    def ask(self) -> Account:
        """Return the exporter's account, or the previous one if it is not valid."""
        return valid_account(self.exporter, self._notices, self._account)

    def settle(self, taken: int, failed: int, left_out: int, account: Account) -> Counts:
        """Add the spans of a batch: *taken*, *failed*, and *left_out* because their traces are not sampled.

        Return all counts, without spans that the exporter holds.
        """
        taken += self._taken
        failed += self._failed
        left_out += self._left_out
        left = taken
        shares = []
        # No account can make a count negative, or their sum larger than the number of taken spans.
        for now, before in ((account.failed, self._before.failed), (account.unsampled, self._before.unsampled)):
            shares.append(min(max(0, now - before), left))
            left -= shares[-1]
        held = min(max(0, account.queued - self._before.queued), left)
        counts = Counts(left - held, failed + shares[0], shares[1] + left_out)
        # Last: where memory is missing, nothing has changed.
        self._taken, self._failed, self._left_out, self._account = taken, failed, left_out, account
        return counts

    def held(self, counts: Counts) -> int:
        """Return the number of spans that the exporter still holds, which are not among *counts*."""
        return self._taken + self._failed + self._left_out - sum(counts)
