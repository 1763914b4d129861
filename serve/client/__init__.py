"""A client of the HTTP API, synchronous and asynchronous. It loads neither models nor indexes.

    with Client("http://127.0.0.1:8000", key=key) as shop:
        response = shop.search(text="red sneaker", filter={"price": {"lte": 50}}, k=5)

    async with AsyncClient("http://127.0.0.1:8000", key=key) as shop:
        response = await shop.search(text="red sneaker", filter={"price": {"lte": 50}}, k=5)

Arguments are plain values with the names of the API's fields; None leaves the service's default. Responses are the
models of `serve.schemas`. `serve.client.operations` describes each operation once; both clients make a method of it.

ClientError
├── Refused          the service rejects the request (4xx); has its code, message and field
│   ├── NotAllowed   missing or unknown key, or a key without the scope (401, 403)
│   ├── NotFound     unknown item, release or operation (404)
│   └── TooMany      rate limit of the key exceeded (429); `retry_after` states when to retry
├── Unavailable      the service responds with an error (5xx); `retry_after` as above, if stated
├── Unreachable      no connection, or no response in time
└── Unreadable       the response is not one of this API
"""

from serve.client.clients import MAX_BACKOFF, MAX_RETRIES, MAX_WAIT, AsyncClient, Client
from serve.client.errors import (
    ClientError,
    NotAllowed,
    NotFound,
    Refused,
    TooMany,
    Unavailable,
    Unreachable,
    Unreadable,
)

__all__ = [
    "MAX_BACKOFF",
    "MAX_RETRIES",
    "MAX_WAIT",
    "AsyncClient",
    "Client",
    "ClientError",
    "NotAllowed",
    "NotFound",
    "Refused",
    "TooMany",
    "Unavailable",
    "Unreachable",
    "Unreadable",
]
