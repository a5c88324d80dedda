"""The suites, and what they need installed."""

from __future__ import annotations

__all__ = ["REQUIREMENTS", "SUITES"]

SUITES = (
    "wsgi asgi flask django fastapi starlette httpx requests urllib urllib3 aiohttp-client aiohttp-server sqlite3 dbapi "
    "sqlalchemy psycopg asyncpg redis celery grpc jinja2 asyncio logging threading tornado falcon pyramid click pika "
    "aio-pika kafka-python"
).split()

# One environment for all suites: newer versions than the suites pin, except where their tests need an older one.
REQUIREMENTS = """
aio-pika
aiohttp
aiosqlite
asgiref
asyncpg
blinker
celery
click
django<6
fakeredis
falcon>=4,<5
fastapi==0.137.2
flask
greenlet
grpcio
hatchling
http_server_mock==1.7
httpx
httpx2
jinja2
kafka-python
mocket==3.14.1
opentelemetry-api
opentelemetry-sdk
opentelemetry-semantic-conventions
opentelemetry-test-utils
packaging
pika
protobuf
psycopg[binary]
pyparsing
pyramid
pytest
pytest-aiohttp
pytest-asyncio
python-dateutil
redis<6
requests
respx
setuptools<82
sqlalchemy>=2,<2.1
starlette==1.3.1
tornado
urllib3
werkzeug
wrapt>=1,<3
""".split()
