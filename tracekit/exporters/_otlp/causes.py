"""The causes of connections that fail, in the words of OpenSSL and of gRPC's core, and the remedies."""

from __future__ import annotations

from ..._export.notices import one_line

# OpenSSL's reason, then OpenSSL 3's for some servers.
_NO_TLS = ("WRONG_VERSION_NUMBER", "record layer failure")
# gRPC's core met HTTP/1, and a TLS server that does not offer HTTP/2.
_NO_GRPC = ("Failed parsing HTTP/2", "Trying to connect an http1.x server", "missing selected ALPN property")


def tls_fault(text: str) -> str:
    """Return the cause of a failed TLS handshake and the remedy, or an empty text if *text* names none."""
    if any(mark in text for mark in _NO_TLS):
        return "it does not speak TLS: write http:// instead of https://"
    if "CERTIFICATE_VERIFY_FAILED" not in text:
        return ""
    if "certificate has expired" in text:
        return "its certificate has expired: renew it, or correct this machine's clock"
    if "certificate is not yet valid" in text:
        return "its certificate is not yet valid: correct this machine's clock"
    # "…CERTIFICATE_VERIFY_FAILED] certificate verify failed: REASON (_ssl.c:1006)", and "…CERTIFICATE_VERIFY_FAILED: REASON: OK".
    for mark in ("certificate verify failed: ", "CERTIFICATE_VERIFY_FAILED: "):
        if mark in text:
            reason = text.partition(mark)[2].partition(" (_ssl")[0]
            why = one_line(reason.partition(": OK")[0], 100)
            return f"its certificate is not trusted ({why}): set certificate, or OTEL_EXPORTER_OTLP_CERTIFICATE"
    return "its certificate is not trusted: set certificate, or OTEL_EXPORTER_OTLP_CERTIFICATE"


def grpc_fault(text: str, *, is_secure: bool) -> str:
    """Return the cause of a connection of gRPC's that failed, or an empty text if *text* names none."""
    if fault := tls_fault(text):
        return fault
    if "Hostname Verification Check failed" in text:
        return "its certificate is for another host: correct the endpoint, or the certificate"
    if any(mark in text for mark in _NO_GRPC):
        return 'it does not speak gRPC (4318 is the port of OTLP/HTTP): set another port, or protocol="http/protobuf"'
    if "Socket closed" in text and not is_secure:
        return "it closes the connection: if it speaks TLS, write https:// instead of http://"
    return ""
