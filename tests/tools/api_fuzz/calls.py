"""Operations on spans, carriers, public names, compiled internals and the configuration."""

from __future__ import annotations

import copy
import operator
import pickle
import random
from typing import TYPE_CHECKING, Any

import tracekit
import tracekit.testing
import tracekit.threads
from tracekit._core.otlp import encode_spans
from tracekit._core.restore import restore_span

from . import hostile
from .run import Fuzz, compiled_modules, is_ours, operation
from .values import FORMATS, HEADERS, IDS, KINDS, NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

# Called by separate operations, or not at all since every other call depends on them.
OWN = {"configure", "flush", "shutdown", "install_hooks", "remove_hooks", "traced", "wrap", "stream"}
PUBLIC = [name for name in tracekit.__all__ if callable(getattr(tracekit, name)) and name not in OWN]
# Internal functions whose effect cannot be undone.
_SETTERS = {"after_fork", "set_clock", "set_formats", "set_ids", "set_observer", "set_tracer", "set_values"}
_FUNCTION_TYPES = {"cython_function_or_method", "builtin_function_or_method"}
# Raised by Python for random arguments of random methods.
LOOKUP = (AttributeError, LookupError, StopIteration, OverflowError, RecursionError)
# Raised by Python for a container that is inconsistent or changes during a copy, and by our iterators that were made by
# __new__ alone and so lack fields; setup functions may pass it on.
NONSENSE = (RuntimeError, LookupError, OverflowError, AttributeError)
LOOKS: dict[str, Callable[[Any], Any]] = {
    "repr": repr,
    "str": str,
    "hash": hash,
    "bool": bool,
    "copy": copy.copy,
    "__reduce_ex__": lambda thing: thing.__reduce_ex__(2),
}


def internals() -> tuple[list[type], list[Any]]:
    """Return the classes and functions of the compiled modules."""
    classes: dict[str, type] = {}
    functions: dict[str, Any] = {}
    for module in compiled_modules():
        for name, value in sorted(vars(module).items()):
            if isinstance(value, type):
                if is_ours(value):
                    classes[name] = value
            elif type(value).__name__ in _FUNCTION_TYPES and name not in _SETTERS:
                functions[name] = value
    return list(classes.values()), list(functions.values())


CLASSES, FUNCTIONS = internals()


def look_at(fuzz: Fuzz, thing: Any, allow: Any = ()) -> None:
    """Read every attribute of *thing* and pass it to the functions that accept any object."""
    name = type(thing).__name__
    for attribute in dir(type(thing)):
        fuzz.call(f"{name}.{attribute}", getattr, thing, attribute, allow=(AttributeError, *allow))
    for what, function in LOOKS.items():
        fuzz.call(what, function, thing, allow=allow)
    fuzz.call("==", operator.eq, thing, fuzz.value(), allow=allow)


# ---- spans


@operation("spans", 20)
def start_odd(fuzz: Fuzz) -> None:
    rng = fuzz.rng
    given: dict[str, Any] = {}
    if rng.random() < 0.3:
        given["kind"] = fuzz.text()
    if rng.random() < 0.7:
        given["attributes"] = fuzz.mapping() if rng.random() < 0.9 else fuzz.value()
    if rng.random() < 0.3:
        given["links"] = fuzz.links()
    if rng.random() < 0.3:
        given["parent"] = fuzz.value()
    if rng.random() < 0.3:
        given["start_ns"] = fuzz.number() if rng.random() < 0.9 else fuzz.value()
    name = fuzz.text() if rng.random() < 0.9 else fuzz.value()
    fuzz.keep(fuzz.spans, fuzz.call("span", tracekit.span, name, **given))


@operation("spans", 60)
def write(fuzz: Fuzz) -> None:
    span = fuzz.pick(fuzz.spans)
    if span is None:
        return
    is_odd = fuzz.rng.random() < 0.1
    attributes = fuzz.rng.choice([None, fuzz.mapping()])
    match fuzz.rng.randrange(9):
        case 0 | 1:
            fuzz.call("set_attribute", span.set_attribute, fuzz.value() if is_odd else fuzz.text(), fuzz.value())
        case 2:
            fuzz.call("set_attributes", span.set_attributes, fuzz.value() if is_odd else fuzz.mapping())
        case 3:
            given = {"time_ns": fuzz.number()} if fuzz.rng.random() < 0.5 else {}
            fuzz.call("add_event", span.add_event, fuzz.text(), attributes, **given)
        case 4:
            fuzz.call("add_link", span.add_link, fuzz.value(), attributes)
        case 5:
            fuzz.call("set_status", span.set_status, fuzz.text(), fuzz.value())
        case 6:
            error = fuzz.value() if is_odd else fuzz.exception()
            fuzz.call("record_exception", span.record_exception, error, attributes)
        case 7:
            fuzz.call("update_name", span.update_name, fuzz.value() if is_odd else fuzz.text())
        case 8:
            fuzz.call("end", span.end, fuzz.value() if is_odd else fuzz.number())


@operation("spans", 2)
def read(fuzz: Fuzz) -> None:
    span = fuzz.pick(fuzz.spans)
    if span is not None:
        look_at(fuzz, span)


@operation("spans", 10)
def read_often(fuzz: Fuzz) -> None:
    """Read a span until the collector runs in the middle, which may write to that span."""
    span = fuzz.pick(fuzz.spans, newest=1)
    if span is not None:
        name = fuzz.rng.choice(["attributes", "events", "links"])
        fuzz.call(name, lambda: [getattr(span, name) for _ in range(20)])


@operation("spans", 3)
def encode(fuzz: Fuzz) -> None:
    spans = [span for span in fuzz.spans if fuzz.rng.random() < 0.5]
    fuzz.call("encode_spans", encode_spans, fuzz.walked(fuzz.rng.choice([list, tuple])(spans)))
    fuzz.call("span_tree", tracekit.testing.span_tree, spans)


@operation("spans", 1)
def restore(fuzz: Fuzz) -> None:
    """Restore a span of another process with odd values."""
    rng = fuzz.rng
    context = fuzz.pick(fuzz.remote) or tracekit.SpanContext(*IDS, 1)
    ends = [0, 1, -1, (1 << 63) - 1, fuzz.number()]
    nested: Any = 1
    for _ in range(rng.choice([0, 3, 50])):
        nested = (nested,)
    made = fuzz.call(
        "restore_span",
        restore_span,
        context,
        rng.choice([None, fuzz.pick(fuzz.remote)]),
        rng.choice(NAMES),
        rng.choice(KINDS),
        rng.choice(ends),
        rng.choice(ends),
        rng.choice(
            [None, {}, {"a": fuzz.value()}, {fuzz.text(): fuzz.value()}, {"a": nested}, {"a": {1: 2}}, {1: "a"}]
        ),
        rng.choice([None, [("a", 1, None)], [("a", fuzz.number(), {"b": fuzz.value()})], [1], [(fuzz.value(),) * 3]]),
        rng.choice([None, [tracekit.Link(context)], [tracekit.Link(context, fuzz.mapping())], [(1, 2)]]),
        rng.choice([("ok", ""), ("error", "a"), ("cancelled", "b"), ("unset", None), ("no", "a"), (1,)]),
        rng.choice([(0, 0, 0, 0), (1, 2, 3, 4), (-1, 0, 0, 0), ()]),
        allow=Exception,
    )
    if made is not None:
        fuzz.call("encode_spans", encode_spans, [made], allow=Exception)
        look_at(fuzz, made, allow=(Exception,))


# ---- carriers


@operation("carriers", 60)
def extract(fuzz: Fuzz) -> None:
    carrier = fuzz.carrier()
    if fuzz.rng.random() < 0.8:
        found = fuzz.call("extract", tracekit.extract, carrier)
    else:
        format = fuzz.rng.choice(FORMATS)
        found = fuzz.call(f"{format.name} read", format.read, carrier)
    if isinstance(found, tracekit.SpanContext):  # an odd format may return anything
        fuzz.keep(fuzz.remote, found)


@operation("carriers", 40)
def inject(fuzz: Fuzz) -> None:
    carrier = fuzz.carrier()
    context = fuzz.pick(fuzz.remote) if fuzz.rng.random() < 0.8 else fuzz.value()
    if fuzz.rng.random() < 0.8 or context is None:
        fuzz.call("inject", tracekit.inject, carrier, context)
    else:
        format = fuzz.rng.choice(FORMATS)
        fuzz.call(f"{format.name} write", format.write, fuzz.pick(fuzz.remote) or tracekit.SpanContext(*IDS), carrier)


@operation("carriers", 10)
def make_context(fuzz: Fuzz) -> None:
    rng = fuzz.rng
    given: dict[str, Any] = {}
    if rng.random() < 0.5:
        labels = fuzz.mapping() if rng.random() < 0.7 else fuzz.value()
        given["labels"] = fuzz.call("Labels", tracekit.Labels, labels, allow=NONSENSE)
    if rng.random() < 0.3:
        given["extra"] = rng.choice([{rng.choice(FORMATS).name: fuzz.value()}, fuzz.mapping(), fuzz.value()])
    if rng.random() < 0.3:
        given[rng.choice(["state", "labels", "is_remote", "deferred"])] = fuzz.value()
    ids = IDS if rng.random() < 0.8 else (fuzz.value(), fuzz.text())
    flags = rng.choice([0, 1, 3]) if rng.random() < 0.8 else fuzz.number()
    fuzz.keep(fuzz.remote, fuzz.call("SpanContext", tracekit.SpanContext, *ids, flags, allow=NONSENSE, **given))


@operation("carriers", 2)
def use_context(fuzz: Fuzz) -> None:
    context = fuzz.pick(fuzz.remote)
    if context is not None:
        look_at(fuzz, context)
        fuzz.keep(fuzz.remote, fuzz.call("replace", context.replace, extra=fuzz.mapping(), allow=NONSENSE))
        pickled = fuzz.call("pickle", pickle.dumps, context, allow=Exception)  # extra may hold any object
        if pickled is not None:
            fuzz.keep(fuzz.remote, fuzz.call("unpickle", pickle.loads, pickled, allow=Exception))


# ---- public names


def is_public(name: str) -> bool:
    """Return whether *name* is public or special: private methods are cdef methods in the compiled form."""
    # Python 3.14 makes __annotate_func__ for a NamedTuple: it raises NotImplementedError for most formats.
    return (not name.startswith("_") or name.endswith("__")) and name not in {"__del__", "__annotate_func__"}


def keep_ours(fuzz: Fuzz, thing: Any) -> None:
    """Keep *thing* for calls of its methods if the package defines its class."""
    if is_ours(type(thing)):
        fuzz.keep(fuzz.things, thing)


@operation("public", 10)
def public_call(fuzz: Fuzz) -> None:
    name = fuzz.rng.choice(PUBLIC)
    arguments = [fuzz.value() for _ in range(fuzz.rng.choice([0, 1, 1, 1, 2, 3]))]
    keep_ours(fuzz, fuzz.call(name, getattr(tracekit, name), *arguments, allow=NONSENSE))


@operation("public", 20)
def method_call(fuzz: Fuzz) -> None:
    thing = fuzz.pick(fuzz.rng.choice([fuzz.things, fuzz.remote, fuzz.spans]))
    if thing is None:
        return
    names = [name for base in type(thing).__mro__ if is_ours(base) for name in vars(base) if is_public(name)]
    if not names:
        return
    name = fuzz.rng.choice(names)
    what = f"{type(thing).__name__}.{name}"
    method = fuzz.call(what, getattr, thing, name, allow=LOOKUP)
    if callable(method) and name not in ("__init_subclass__", "__class__"):
        arguments = [fuzz.value() for _ in range(fuzz.rng.choice([0, 0, 1, 1, 2]))]
        keep_ours(fuzz, fuzz.call(what, method, *arguments, allow=LOOKUP))


@operation("public", 2)
def queue(fuzz: Fuzz) -> None:
    items: Any = tracekit.threads.Queue()
    fuzz.call("put", items.put, fuzz.value())
    delivery = fuzz.call("get_delivery", items.get_delivery)
    made = fuzz.call("delivery.span", delivery.span, fuzz.text(), root=fuzz.rng.random() < 0.5)
    fuzz.keep(fuzz.spans, made)
    fuzz.call("repr", repr, delivery, allow=RecursionError)  # the item may be nested deeply


# ---- compiled internals: they may raise any exception, but not crash


@operation("bare", 6)
def bare(fuzz: Fuzz) -> None:
    """Make an object with ``__new__`` alone, and call everything with it."""
    kind = fuzz.pick(CLASSES)
    thing = None if kind is None else fuzz.call(f"{kind.__name__}.__new__", kind.__new__, kind, allow=Exception)
    if thing is None:
        return
    look_at(fuzz, thing, allow=(Exception,))
    for function in (tracekit.use_span, tracekit.use_context, tracekit.inject, tracekit.extract, tracekit.Link):
        keep_ours(fuzz, fuzz.call(function.__name__, function, thing, allow=Exception))
    fuzz.call("encode_spans", encode_spans, [thing], allow=Exception)
    fuzz.keep(fuzz.spans, fuzz.call("span", tracekit.span, "a", parent=thing, allow=Exception))
    for name in filter(is_public, dir(kind)):
        method = fuzz.call(f"{kind.__name__}.{name}", getattr, thing, name, allow=Exception)
        if callable(method) and name not in ("__class__", "__init_subclass__"):
            arguments = [fuzz.rng.choice([thing, fuzz.value()]) for _ in range(fuzz.rng.randrange(3))]
            fuzz.call(f"{kind.__name__}.{name}", method, *arguments, allow=Exception)


@operation("internals", 20)
def internal_call(fuzz: Fuzz) -> None:
    function = fuzz.pick(FUNCTIONS)
    if function is not None:
        arguments = [internal_value(fuzz) for _ in range(fuzz.rng.randrange(5))]
        fuzz.call(function.__name__, function, *arguments, allow=Exception)


@operation("internals", 10)
def construct(fuzz: Fuzz) -> None:
    kind = fuzz.pick(CLASSES)
    if kind is None:
        return
    arguments = [internal_value(fuzz) for _ in range(fuzz.rng.randrange(4))]
    made = fuzz.call(kind.__name__, kind, *arguments, allow=Exception)
    if made is not None:
        look_at(fuzz, made, allow=(Exception,))
        if hasattr(made, "sift"):
            fuzz.call("sift", made.sift, fuzz.carrier(), allow=Exception)


def internal_value(fuzz: Fuzz) -> Any:
    """Return an argument that some internal function might expect."""
    rng = fuzz.rng
    match rng.randrange(6):
        case 0:
            return rng.choice(
                [[], ["a"], ("\U0010ffff-trace",), ["\xe9"], [""], ("traceparent", "baggage"), [fuzz.text()]]
            )
        case 1:
            return rng.choice(HEADERS)
        case 2:
            return fuzz.carrier()
        case 3:
            return rng.choice(
                [(("a", "b", ()),), (("a", None, ()),), (("\xe9", "", (("a", None),)),), [1], b"\x80" * 24]
            )
        case _:
            return fuzz.value()


# ---- configuration


class Exporter:
    """A hostile exporter. Its random numbers are separate, since it runs in another thread."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.kept: list[Any] = []

    def export(self, spans: Any) -> None:
        self.kept = list(spans)[:8]
        match self.rng.randrange(8):
            case 0:
                raise hostile.Hostility("export")
            case 1:
                raise hostile.HostileExit("export")
            case 2:
                spans.clear()
            case 3:
                spans.extend(spans)
            case 4:
                with tracekit.span("export"):
                    tracekit.statistics()
            case 5:
                encode_spans(spans)

    def account(self) -> Any:
        return self.rng.choice([(0, 0, 0), None, (1,), ("a", None, 3.5), (0, 0, 0, 0, 0), (-5, -5, -5), (1 << 70,) * 3])

    def flush(self, timeout_s: float) -> Any:
        return self.rng.choice([True, None, "yes"])

    def shutdown(self) -> None:
        if self.rng.randrange(3) == 0:
            raise hostile.Hostility("shutdown")


class Sampler:
    """A sampler with hostile answers."""

    def sample(self, *_: Any) -> Any:
        return hostile.ask("sample", lambda: (True, hostile.HostileStr("ot=th:8")))


class Format:
    """A format with odd *fields* and *prefixes*."""

    name = "odd"

    def __init__(self, fields: Any, prefixes: Any) -> None:
        self.fields = fields
        if prefixes is not None:
            self.prefixes = prefixes

    def read(self, carrier: Any) -> Any:
        return hostile.ask("read", lambda: None)

    def write(self, context: Any, carrier: Any) -> None:
        hostile.ask("write", lambda: None)


def configure_plainly(fuzz: Fuzz) -> None:
    """Configure an exporter in memory and the default formats."""
    fuzz.call("configure", tracekit.configure, exporter=tracekit.testing.MemoryExporter(), environ={})


@operation("configure", 1)
def configure(fuzz: Fuzz) -> None:
    rng = fuzz.rng
    given: dict[str, Any] = {"environ": {}, "exporter": rng.choice([None, tracekit.testing.MemoryExporter()])}
    if rng.random() < 0.3:
        given["resource"] = fuzz.mapping() if rng.random() < 0.8 else fuzz.value()
    if rng.random() < 0.3:
        given["service"] = fuzz.text()
    if rng.random() < 0.5:
        samplers = [tracekit.AlwaysOff(), tracekit.Ratio(0.5), tracekit.Rate(10), Sampler(), fuzz.value()]
        given["sampler"] = rng.choice(samplers)
    if rng.random() < 0.3:
        given["limits"] = rng.choice([tracekit.Limits(0, 0, 0, 0), tracekit.Limits(1, 1, 1, 1), fuzz.value()])
    if rng.random() < 0.2:
        given[rng.choice(["buffer_size", "batch_size", "export_interval_s", "environ"])] = fuzz.value()
    fuzz.call("configure", tracekit.configure, allow=NONSENSE, **given)


@operation("exporters", 1)
def configure_exporter(fuzz: Fuzz) -> None:
    fuzz.call("configure", tracekit.configure, exporter=Exporter(fuzz.rng.getrandbits(32)), environ={})
    fuzz.call("flush", tracekit.flush, 5)


@operation("formats", 2)
def configure_formats(fuzz: Fuzz) -> None:
    """Use a random selection of formats, some of them odd, for a few calls."""
    rng = fuzz.rng
    formats = rng.sample(FORMATS, rng.randrange(1, len(FORMATS)))
    if rng.random() < 0.5:
        fields = rng.choice([("a",), ("\U0010ffff-trace",), ("\xe9",), ("",), (), None, (fuzz.text(),), fuzz.value()])
        formats.append(Format(fields, rng.choice([None, ("p-",), ("\U0010ffff",), ("",), fuzz.value()])))
    exporter = tracekit.testing.MemoryExporter()
    fuzz.call("configure", tracekit.configure, formats=formats, exporter=exporter, environ={})
    for _ in range(rng.randrange(12)):
        rng.choice([extract, inject])(fuzz)
        fuzz.mischief.containers.clear()
    configure_plainly(fuzz)


@operation("pipeline", 2)
def ask_pipeline(fuzz: Fuzz) -> None:
    name = fuzz.rng.choice(["flush", "statistics"])
    fuzz.call(name, getattr(tracekit, name))
