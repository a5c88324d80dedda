"""The version, and that of OpenTelemetry's semantic conventions, in one place."""

__version__ = "1.0.0rc1"
# Names and values of attributes are those of this version: https://opentelemetry.io/docs/specs/semconv/
SEMANTIC_CONVENTIONS = "1.40.0"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{SEMANTIC_CONVENTIONS}"
