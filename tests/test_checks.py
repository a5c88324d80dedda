"""Arguments out of range: the error names the parameter, however large the number is."""

import pytest

from tracekit._core.checks import check_above_0, check_int, check_number, nanoseconds

pytestmark = pytest.mark.one_form


@pytest.mark.parametrize("number", [10**5000, -(10**5000)], ids=["large", "negative"])
def test_an_error_about_a_number_too_long_for_text_names_the_parameter(number):
    for check in (
        lambda: check_int("size", number, 0, 5),
        lambda: check_number("size", number, 0, 5),
        lambda: check_above_0("size", number, 5),
        lambda: nanoseconds("size", number),
    ):
        with pytest.raises(ValueError, match=r"^size must be .*: -?0x[0-9a-f]+\.\.\.$"):
            check()
