"""Secrets in queries and headers. The lists are independent of the tables in the code that they test."""

from __future__ import annotations

from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracekit import _secrets
from tracekit.integrations._client import Client
from tracekit.integrations._redaction import Redaction

# Names of query parameters, in the spelling of real services.
SECRETS = [
    "access_key",
    "access_token",
    "accessToken",
    "api_key",
    "api-key",
    "apikey",
    "ApiKey",
    "api%5Fkey",
    "assertion",
    "auth",
    "auth_token",
    "authkey",
    "Authorization",
    "AWSAccessKeyId",
    "bearer",
    "client_assertion",
    "client_secret",
    "clientSecret",
    "code",
    "CODE",
    "code_verifier",
    "csrf_token",
    "db_password",
    "id_token",
    "jwt",
    "key",
    "%6Bey",
    "license_key",
    "new-password",
    "otp",
    "pass",
    "passphrase",
    "passwd",
    "password",
    "PHPSESSID",
    "private_key",
    "private-key",
    "pwd",
    "refresh_token",
    "SAMLRequest",
    "SAMLResponse",
    "secret",
    "secret_key",
    "session",
    "session_id",
    "session-token",
    "sessionid",
    "sid",
    "sig",
    "s%69g",
    "Signature",
    "subscription-key",
    "ticket",
    "token",
    "token%20",
    "%20token",
    "+token",
    "token[]",
    "token%5B%5D",
    "user[password]",
    "x[token]",
    "x%5Btoken%5D",
    "x[token][]",
    "filter.token",
    "to_ken",
    "x-api-key",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Goog-Credential",
    "X-Goog-Signature",
    "_csrf",
    "_xsrf",
    "accesskey",
    "auth_code",
    "authorization_code",
    "card[cvc]",
    "client_secret_key",
    "credentials",
    "cvv",
    "encryption-key",
    "hmac",
    "jsessionid",
    "master_key",
    "passcode",
    "pin",
    "SAMLart",
    "secret_id",
    "shared_key",
    "signingKey",
    "storage_key",
    "totp",
    "userpass",
]
# Names of headers that hold secrets.
HEADERS = ["authorization", "cookie", "proxy-authorization", "set-cookie", "x-api-key", "x-auth-token", "x-csrf-token"]
PLAIN = [
    "",
    "accept",
    "author",
    "authors",
    "bypass",
    "color",
    "compass",
    "content-type",
    "country_code",
    "decode",
    "design",
    "host",
    "keyboard",
    "keys",
    "keyword",
    "max_tokens",
    "monkey",
    "page",
    "passengers",
    "q",
    "sort_key",
    "tokens",
    "user-agent",
    "x-request-id",
    "zip_code",
    "%ff",
]


@pytest.mark.parametrize("key", SECRETS)
def test_the_value_of_a_secret_is_redacted(key):
    assert Redaction().query(f"page=2&{key}=s3cr3t&x=1") == f"page=2&{key}=REDACTED&x=1"


@pytest.mark.parametrize("table", ["_NAMES", "_ENDINGS", "_BEGINNINGS"])
def test_every_row_of_the_tables_is_needed_by_one_of_these_names(table, monkeypatch):
    rows = getattr(_secrets, table)
    names = [*map(unquote_plus, SECRETS), *HEADERS]
    unneeded = []
    for row in rows:
        monkeypatch.setattr(_secrets, table, type(rows)(other for other in rows if other != row))
        if all(map(_secrets.is_secret_name, names)):
            unneeded.append(row)
    assert unneeded == []


@pytest.mark.parametrize("key", PLAIN)
def test_other_values_are_kept(key):
    assert Redaction().query(f"{key}=1&b=2") == f"{key}=1&b=2"
    assert not Redaction().is_secret(key)


@pytest.mark.parametrize("name", [*HEADERS, *[name.upper() for name in HEADERS]])
def test_a_header_that_holds_a_secret_is_detected(name):
    assert Redaction().is_secret(name)


@pytest.mark.parametrize(
    ("query", "redacted"),
    [
        ("", ""),
        ("a", "a"),
        ("token", "token"),
        ("token=", "token="),
        ("token=&a=1", "token=&a=1"),
        ("sig&a=1", "sig&a=1"),
        ("sig=s3cr3t=s3cr3t", "sig=REDACTED"),
        ("sig=s3cr3t&sig=s3cr3t", "sig=REDACTED&sig=REDACTED"),
        ("a=1;sig=s3cr3t;b=2", "a=1;sig=REDACTED;b=2"),
        ("a=1&sig=s3cr3t;b=2&token=s3cr3t", "a=1&sig=REDACTED;b=2&token=REDACTED"),
        ("&&=2&", "&&=2&"),
        ("a=" + "x" * 2000, "a=" + "x" * 1022),
        ("a" * 1022 + "&sig=s3cr3t", "a" * 1022 + "&s"),
        ("x" * 300 + "_token=s3cr3t", "x" * 300 + "_token=REDACTED"),
        ("a=1#access_token=s3cr3t", "a=1"),
        ("#sig=s3cr3t&token=s3cr3t", ""),
        ("a=http://user:s3cr3t@b/c&d=e@f", "a=http://b/c&d=e@f"),
        ("a=https%3a%2F%2fuser%3As3cr3t%40b&c=d%40e", "a=https%3a%2F%2fb&c=d%40e"),
        ("http://user:s3cr3t@b?token=s3cr3t", "http://b?token=REDACTED"),
        ("mail=a@b&x=//c", "mail=a@b&x=//c"),
        ("//" * 500 + "@", "//" * 500),
    ],
)
def test_a_query_keeps_its_form(query, redacted):
    redaction = Redaction()
    for _ in range(2):  # the second time, its keys are cached
        assert redaction.query(query) == redacted


def test_names_can_be_added():
    redaction = Redaction(["ssn", "X-Tenant_Pin"])
    assert redaction.query("SSN=1&x%2Dtenant-pin=2&user[ssn]=3&token=4&session=5") == (
        "SSN=REDACTED&x%2Dtenant-pin=REDACTED&user[ssn]=REDACTED&token=REDACTED&session=REDACTED"
    )
    assert Redaction().query("ssn=1") == "ssn=1"


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("ssn", TypeError, "redact must be an iterable of names, not str"),
        (b"ssn", TypeError, "redact must be an iterable of names, not bytes"),
        (5, TypeError, "redact must be an iterable of names, not int"),
        ([5], TypeError, "redact must hold str, not int"),
        (["-_"], ValueError, "redact must hold names with letters or digits: '-_'"),
    ],
)
def test_an_invalid_name_is_an_error(names, error, message):
    with pytest.raises(error) as caught:
        Redaction(names)
    assert str(caught.value) == message


def test_a_name_may_change_the_collection_that_it_is_in():
    names = {}

    class Name(str):
        def lower(self):
            names["another"] = True
            return str.lower(self)

    names[Name("SSN")] = True
    assert Redaction(names).query("ssn=1") == "ssn=REDACTED"


def test_any_number_of_names_takes_bounded_memory():
    redaction = Redaction()
    for number in range(5_000):
        assert redaction.query(f"k{number}=1") == f"k{number}=1"
        assert redaction.query(f"k{number}token=1").endswith("=REDACTED")
    assert len(redaction._known) <= 1024
    redaction.query("x" * 1000 + "=1")
    assert max(map(len, redaction._known)) <= 256


@given(
    st.text(max_size=40).filter(lambda text: "#" not in text),
    st.sampled_from(["&", ";"]),
    st.text("abcdef", min_size=1),
)
def test_a_secret_is_redacted_after_any_text(before, separator, secret):
    assert Redaction().query(f"{before}{separator}sig=<{secret}>").endswith(f"{separator}sig=REDACTED")


@given(st.text(), st.text())
def test_no_name_and_no_query_raises(name, query):
    Redaction().is_secret(name)
    Redaction().query(query)


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("/a", "https://shop:81/a"),
        ("/a?b=1@2", "https://shop:81/a?b=1@2"),
        ("/a?b=1#c", "https://shop:81/a?b=1"),
        ("/a?token=1&b=2", "https://shop:81/a?token=REDACTED&b=2"),
        ("?b=1", "https://shop:81?b=1"),
        ("", "https://shop:81"),
        ("*", "https://shop:81/*"),
        ("http://me:word@other/a?b=1", "http://other/a?b=1"),
        ("http://me:word@other?b=1@2", "http://other?b=1@2"),
        ("a?b=://c", "https://shop:81/a?b=://c"),
    ],
)
def test_the_recorded_url_of_a_request_is_its_target_below_the_origin(exporter, target, url):
    client_span, _ = Client().start("GET", "https", "shop", 81, target)
    assert client_span.attributes["url.full"] == url
    client_span.end()
