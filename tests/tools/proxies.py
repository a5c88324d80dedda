"""Objects that name a class as theirs that they are not of, as proxies, mocks and lazy objects do."""

from __future__ import annotations


class Failing:
    """As a lazy object of Django whose value cannot be had: the value is asked for its class."""

    @property
    def __class__(self):
        raise RuntimeError("no database")


class Posing:
    """As a proxy of an object of the class *kind*, or a mock with it as its ``spec``."""

    def __init__(self, kind):
        self._kind = kind

    @property
    def __class__(self):
        return self._kind


class Unbound:
    """As a proxy of a context variable without a value: a function by its type, without any attribute."""

    def __getattribute__(self, name):
        raise ValueError("not bound")

    def __call__(self):
        raise ValueError("not bound")
