"""The codes of attributes by which a search skips spans."""

import sqlite3

import pytest

from tracekit.exporters._sqlite.terms import MAX_TERMS, joined, key_term, term

pytestmark = pytest.mark.one_form


def test_a_key_and_a_value_have_two_bytes_and_a_bit_each():
    terms, bits = joined([term("a", "1"), term("ö", '"x"')])
    assert (len(terms), bits.bit_count() <= 4) == (8, True)
    for code, its_bits in (term("a", "1"), term("ö", "x"), key_term("a"), key_term("ö")):
        assert code in terms
        assert bits & its_bits == its_bits
    assert term("a", "2")[0] not in terms


def test_bits_fit_into_a_column():
    _, bits = joined([term(str(number), "1") for number in range(MAX_TERMS)])
    assert 0 < bits < 1 << 63


def test_more_codes_than_the_bound_fit_every_search():
    terms, bits = joined([term(str(number), "1") for number in range(MAX_TERMS + 1)])
    code, its_bits = term("none", "1")
    connection = sqlite3.connect(":memory:")
    try:
        fits = connection.execute("SELECT ? & ? = ? AND instr(?, ?) IS NOT 0", (bits, its_bits, its_bits, terms, code))
        assert fits.fetchone() == (1,)
    finally:
        connection.close()
