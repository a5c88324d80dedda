"""Arguments of traced functions as attributes, secrets redacted."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from .._core.guard import type_name
from .._core.misuse import misused
from .._secrets import is_secret_name

if TYPE_CHECKING:
    import inspect

    from .._core.span import Span

Recorder = Callable[["Span", tuple[Any, ...], dict[str, Any]], None]
_Reader = Callable[[tuple[Any, ...], dict[str, Any]], Any]
_REDACTED: Final = "REDACTED"


def recorder(function: Callable[..., Any], names: Any) -> Recorder | None:
    """Return a function that records the arguments *names* of a call of *function*, or None if there are none.

    *names* are names of parameters, or a mapping from these to keys of attributes. A name that is no parameter is
    reported and left out, unless *function* takes any keyword.
    """
    keys = _keys(names)
    if not keys:
        return None
    readers = _readers(function, keys)

    def record(span: Span, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not span.is_recording:
            return
        for key, is_secret, read in readers:
            value = read(args, kwargs)
            if value is None:
                continue
            if is_secret:
                span.set_attribute(key, _REDACTED)
                continue
            span.set_attribute(key, value)
            kept = span.attributes.get(key)
            if type(kept) is dict or type(kept) is tuple:  # after the conversion, which makes dicts of objects
                plain = _without_secrets(kept)
                if plain is not kept:
                    span.set_attribute(key, plain)

    return record


def _readers(function: Callable[..., Any], keys: dict[str, str]) -> list[tuple[str, bool, _Reader]]:
    """Return for each argument of *keys* the attribute's key, whether it is a secret, and a function that reads it."""
    import inspect  # not at the top: it would double the cost of importing tracekit

    as_text: dict[str, Any] = {}
    if sys.version_info >= (3, 14):  # annotations may name later definitions and lazy imports (PEP 649)
        as_text["annotation_format"] = importlib.import_module("annotationlib").Format.STRING
    try:
        parameters = list(inspect.signature(function, **as_text).parameters.values())
    except (TypeError, ValueError):  # some functions in C have no signature
        parameters = []
    names = [one.name for one in parameters]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    readers = []
    for name, key in keys.items():
        if name in names or takes_any:
            readers.append((key, is_secret_name(name), _reader(name, names, parameters)))
        else:
            misused(ValueError(f"capture_args must hold parameters of the function: {name[:64]!a}"))
    return readers


def _reader(name: str, names: list[str], parameters: list[inspect.Parameter]) -> _Reader:
    """Return a function that reads the argument *name* of a call from its positional and keyword arguments."""
    if name not in names:
        return lambda _, kwargs: kwargs.get(name)
    at = names.index(name)
    one = parameters[at]
    default = None if one.default is one.empty else one.default
    if one.kind is one.VAR_POSITIONAL:
        return lambda args, _: args[at:]
    if one.kind is one.VAR_KEYWORD:
        known = frozenset(names)
        return lambda _, kwargs: {word: kwargs[word] for word in kwargs if word not in known}
    if one.kind is one.KEYWORD_ONLY:
        return lambda _, kwargs: kwargs.get(name, default)
    return lambda args, kwargs: args[at] if at < len(args) else kwargs.get(name, default)


def _keys(names: Any) -> dict[str, str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        misused(TypeError(f"capture_args must be an iterable of names, or a mapping, not {type_name(names)}"))
        return {}
    pairs = names.items() if isinstance(names, Mapping) else ((name, name) for name in names)
    keys = {}
    for name, key in pairs:
        if isinstance(name, str) and isinstance(key, str):
            keys[name] = key
        else:
            misused(TypeError("capture_args must hold str"))
    return keys


def _without_secrets(value: Any) -> Any:
    """Return a cleaned attribute value with ``REDACTED`` for secrets in its mappings; *value* itself if it has none."""
    if type(value) is dict:
        plain: Any = {
            key: _REDACTED if type(key) is str and item is not None and is_secret_name(key) else _without_secrets(item)
            for key, item in value.items()
        }
        return plain if any(plain[key] is not item for key, item in value.items()) else value
    if type(value) is tuple:
        items = [_without_secrets(item) for item in value]
        return tuple(items) if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value
