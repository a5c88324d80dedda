"""The goods of the demo's shop, and the arithmetic that its processes do and check: carts, prices, seals."""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROUNDS: Final = 4000  # of the seal: about a millisecond of work, without the interpreter lock


class Product(NamedTuple):
    """The price, and the number of shelves to search in the warehouse."""

    price_cents: int
    shelf: int


class Cart(NamedTuple):
    """The tenant, and the number of each good."""

    tenant: str
    items: Mapping[str, int]


GOODS: Final[Mapping[str, Product]] = MappingProxyType(
    {
        "compass": Product(2450, 2),
        "kettle": Product(3900, 5),
        "lantern": Product(1875, 1),
        "map": Product(990, 3),
        "rope": Product(1420, 4),
        "stove": Product(6400, 5),
        "tent": Product(18900, 4),
        "whistle": Product(350, 1),
    }
)
TENANTS: Final[Mapping[str, int]] = MappingProxyType({"alpine": 10, "harbour": 0, "meadow": 5})
"""The shops that share the storefront, and their discount in percent."""


def cart(number: int) -> Cart:
    """Return cart *number*: three goods, always the same ones for the same number."""
    names, tenants = list(GOODS), list(TENANTS)
    chosen = [names[(number * 3 + step) % len(names)] for step in (0, 2, 5)]
    return Cart(tenants[number % len(tenants)], {name: 1 + (number + step) % 4 for step, name in enumerate(chosen)})


def price_cents(cart: Cart) -> int:
    """Return the price of *cart* in cents, less the tenant's discount."""
    full = sum(GOODS[name].price_cents * count for name, count in cart.items.items())
    return full * (100 - TENANTS[cart.tenant]) // 100


def seal(tenant: str, items: Mapping[str, int]) -> str:
    """Return the seal of a reservation, slow on purpose: work that belongs in a thread."""
    text = " ".join(f"{count}x{name}" for name, count in sorted(items.items()))
    return hashlib.pbkdf2_hmac("sha256", text.encode(), tenant.encode(), _ROUNDS, 12).hex()
