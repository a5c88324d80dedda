"""Throw mutated and random headers at both forms: ``python -m tests.tools.fuzz --inputs 200000 --seed 1``.

Each input is one carrier. Every other one has W3C's fields: both forms must give the same value or the same
``FormatError``, which must be what the grammar, written here once more as regular expressions, says. The rest have
the fields of one format of all: it must do the same on both forms and raise nothing but ``FormatError``, and, with all
formats configured, ``extract`` must not raise. What goes out again must be legal headers that read the same, whatever
hostile words the context has. Input *n* of a seed is always the same: ``--first n --inputs 1``.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import pkgutil
import random
import re
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import tracekit
from tracekit import FormatError, Labels, _propagation, wire
from tracekit.wire.w3c import BAGGAGE, TRACECONTEXT

from ..wire.vector_files import DIRECTORY, load
from . import vectors
from .vectors import TWINS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .forms import Form

FIELDS = ("traceparent", "tracestate", "baggage")

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-[\x00-\x7f]*)?", re.DOTALL
)
_STATE_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9a-zA-Z]+"
_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_LABEL = re.compile(rf"{_TOKEN}[ \t]*=[ \t]*{_VALUE}(?:[ \t]*;[ \t]*{_TOKEN}(?:[ \t]*=[ \t]*{_VALUE})?)*[ \t]*")
_SENT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_SENT_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")

_GOOD = {
    "traceparent": [row[0] for row in vectors.GOOD_TRACEPARENTS.values()],
    "tracestate": [row[0] for row in vectors.GOOD_STATES.values()],
    "baggage": [row[0] for row in vectors.BAGGAGE.values()],
}
_BAD = {
    "traceparent": [row[0] for row in vectors.BAD_TRACEPARENTS.values()],
    "tracestate": [row[0] for row in vectors.BAD_STATES.values()],
    "baggage": ["a", "=", ";", "%", "a=b;", 'a="b"'],
}
_CHARS = [
    *"0123456789abcdefg-_.:,;=%+*/@ \t\"'\\<>",
    *"ABCDEFXYZ",
    *"\0\r\n\v\f\x1b\x7f\x80\x85\xa0\xe9\xff",
    *"\u0130\u0131\u017f\u0661\u2028\u212a\ufeff\uff11\uff41\uff1d\ufffd",
    *"\U0001d7ce\U0001f419\ud800\udbff\udc80\udfff",
]
_PIECES = [
    "%00",
    "%0d%0A",
    "%zz",
    "%",
    "%%41",
    "%C3",
    "%C3%A9",
    "00-",
    "ff-",
    "-01",
    "0" * 16,
    "a=1",
    ",,",
    "=;",
    "\r\n\r\n",
]
_JUNK = [
    None,
    0,
    1.5,
    "ab",
    b"ab",
    (),
    [],
    {},
    ("traceparent",),
    ("a", "b", "c"),
    (None, "x"),
    ("baggage", None),
    object(),
]
# What a context takes as extra words of a format.
_WORDLIKE = [junk for junk in _JUNK if junk is None or isinstance(junk, (int, float, str, bytes, tuple, list))]


def formats_on(form: Form) -> dict[str, Any]:
    """Return every format of ``tracekit.wire``, of one form, by its name."""
    found: dict[str, Any] = {}
    for info in pkgutil.iter_modules(wire.__path__):
        module = importlib.import_module(f"{form.package}.wire.{info.name}")
        constants = [getattr(module, name) for name in getattr(module, "__all__", ()) if name.isupper()]
        found.update({constant.name: constant for constant in constants})
    return found


FORMATS = {name: formats_on(form) for name, form in TWINS.items()}
NAMES = sorted(FORMATS["plain"])
# The environment has names of its own, and is no header.
CONFIGURED = [
    format for name, format in sorted(formats_on(TWINS[tracekit.IMPLEMENTATION]).items()) if name != "environ"
]
CARRIERS: dict[tuple[str, bool], list[list[tuple[str, str]]]] = {
    (name, is_good): [] for name in NAMES for is_good in (True, False)
}
for file in sorted(DIRECTORY.glob("*.json")):
    for case in load(file.stem):
        CARRIERS[case.format, case.context is not None].append(
            [
                (name, text.decode("latin-1") if isinstance(text, bytes) else text)
                for name, value in case.carrier.items()
                for text in (value if isinstance(value, list) else [value])
            ]
        )
_CHUNK = 20_000
_WORDS = sorted(
    {text for carriers in CARRIERS.values() for carrier in carriers for _, text in carrier if len(text) < 80}
)


class Text(str):
    """A header's value as ``email`` and others have it."""

    __slots__ = ()


class Mismatch(AssertionError):
    """A form, ``extract`` or ``inject`` did what it must not."""


def _random_text(rng: random.Random) -> str:
    return "".join(rng.choices(_CHARS, k=rng.choice([0, 1, 2, 8, 55, 60])))


def _mutated(rng: random.Random, text: str) -> str:
    at, to = sorted(rng.choices(range(len(text) + 1), k=2))
    match rng.randrange(11):
        case 0:
            return text[:at] + rng.choice(_CHARS) + text[at + 1 :]
        case 1:
            return text[:at] + rng.choice(_CHARS) + text[at:]
        case 2:
            return text[:at] + text[at + 1 :]
        case 3:
            return text[:at] + text[to:]
        case 4:
            return text[:to] + text[at:]
        case 5:
            return text[:at] + text[at:to].upper() + text[to:]
        case 6:
            return text[:at] + rng.choice(_PIECES) + text[at:]
        case 7:
            return rng.choice([" ", "\t", " \t", ","]) + text + rng.choice(["", " ", "\t", ",", ", "])
        case 8:
            return text[:at] + "0" * (to - at) + text[to:]
        case 9:
            return text[:at] + text[at:to][::-1] + text[to:]
        case _:
            return text + "," + text[at:to]


def _field(rng: random.Random, name: str) -> str:
    """Return a value for *name*: good, good but for a few changes, bad, another field's, random, and rarely huge."""
    dice = rng.random()
    if dice < 0.02:
        return _random_text(rng)
    if dice < 0.03:
        return rng.choice(_GOOD[rng.choice(FIELDS)])
    if dice < 0.032:
        return (rng.choice(_GOOD[name])[:600] or rng.choice(_CHARS)) * rng.choice([20, 200, 1000])
    text = rng.choice(_BAD[name] if dice < 0.1 else _GOOD[name])
    if len(text) > 1000 and rng.random() < 0.9:
        text = text[: rng.randrange(200)]
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 8])):
        text = _mutated(rng, text)
    return text


def _encoded(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def make_carrier(rng: random.Random) -> list[Any]:
    """Return a carrier as a list of pairs, str or bytes, perhaps with junk among them."""
    pairs: list[Any] = []
    for name, chance in (("traceparent", 0.95), ("tracestate", 0.7), ("baggage", 0.6)):
        if rng.random() < chance:
            pairs += [(name, _field(rng, name)) for _ in range(1 if rng.random() < 0.94 else rng.randrange(2, 5))]
    if rng.random() < 0.3:
        pairs = [(rng.choice([name, name.title(), name.upper()]), text) for name, text in pairs]
    if rng.random() < 0.02:
        pairs = [(_mutated(rng, name), text) for name, text in pairs]
    if rng.random() < 0.4:
        pairs = [(_encoded(name), _encoded(text)) for name, text in pairs]
    if rng.random() < 0.05:
        pairs += rng.choices(_JUNK, k=3)
        rng.shuffle(pairs)
    return pairs


def make_fields(rng: random.Random, name: str) -> list[Any]:
    """Return a carrier of the format *name*, a vector but for a few changes, as a list of pairs."""
    pairs: list[Any] = []
    for field, text in rng.choice(CARRIERS[name, rng.random() < 0.8]):
        dice = rng.random()
        if dice < 0.03:
            continue
        if dice < 0.06:
            text = rng.choice(_WORDS)
        elif dice < 0.09:
            text = _random_text(rng)
        elif dice < 0.092:
            text *= 1000
        elif dice < 0.1:
            pairs.append((field, text))
        for _ in range(rng.choice([0, 0, 0, 1, 1, 2, 4])):
            text = _mutated(rng, text)
        if dice > 0.98:
            field = _mutated(rng, field)
        pairs.append((field, text))
    dice = rng.random()
    if dice < 0.2 and name != "environ":
        pairs = [(rng.choice([field.title(), field.upper()]), text) for field, text in pairs]
    elif dice < 0.4 and name != "environ":
        pairs = [(_encoded(field), _encoded(text)) for field, text in pairs]
    elif dice < 0.5 and name == "grpc_bin":
        pairs = [(field, base64.b64encode(_encoded(text)).decode()) for field, text in pairs]
    return pairs


def make_words(rng: random.Random) -> Any:
    """Return what a pickle or a program may have made of a format's extra words."""
    words = [_mutated(rng, rng.choice(_WORDS)) for _ in range(4)]
    key = rng.choice(["priority", "origin", "tags", "flags", "debug-id", "Sampled", words[0]])
    match rng.randrange(8):
        case 0:
            octets = rng.randbytes(rng.choice([1, 9, 17, 500]))
            return rng.choice([words[0], words[0].encode("utf-8", "surrogatepass"), octets, "3", "d", *_WORDLIKE])
        case 1:
            return rng.choice([words, [(key, words[1])], tuple(_WORDLIKE)])
        case 2:
            return (("tags", f"_dd.p.a={words[2]},_dd.p.b=c"), ("origin", words[3]))
        case 3:
            return (("Sampled", "?"), (key, words[1]), (words[2], words[3]))
        case _:
            return ((key, words[1]), tuple(words[2:]))


def make_shape(pairs: list[Any], rng: random.Random) -> Callable[[], Any]:
    """Return what makes one carrier, time and again, of some shape from *pairs*."""
    named = [pair for pair in pairs if isinstance(pair, tuple) and len(pair) == 2 and pair[0] is not None]
    match rng.randrange(8):
        case 0:
            return lambda: dict(named)
        case 1:
            grouped: dict[Any, Any] = {}
            for name, text in named:
                grouped.setdefault(name, []).append(text)
            return lambda: grouped
        case 2:
            return lambda: tuple([list(pair) if isinstance(pair, tuple) else pair for pair in pairs])
        case 3:
            return lambda: {f"HTTP_{name.upper()}": text for name, text in named if isinstance(name, str)}
        case 4:
            return lambda: iter(pairs)
        case 5:
            return lambda: [
                (Text(name), Text(text)) for name, text in named if isinstance(name, str) and text is not None
            ]
        case _:
            return lambda: list(pairs)


def fields_of(context: Any) -> Any:
    """Return all that *context*, of either form, holds."""
    if context is None:
        return None
    state, labels = str(context.state), context.labels.members
    return context.id, context.flags, context.deferred, state, labels, context.is_remote, dict(context.extra)


def outcome(function: Any, subject: Any, *arguments: Any) -> Any:
    """Return what *function* makes of *subject*, or its ``FormatError`` as text; anything else is a mismatch."""
    try:
        return function(subject() if callable(subject) else subject, *arguments)
    except FormatError as error:
        message = str(error)
        if not message.isprintable() or len(message) > 500:
            raise Mismatch(f"a message unfit for a log: {message[:1000]!a}") from error
        return f"FormatError: {message}"
    except Exception as error:
        raise Mismatch(f"{getattr(function, '__name__', function)} raised {error!r}") from error


def _same(function: str, subject: Any, *arguments: Any, view: Any = None) -> Any:
    """Return what *function* of every form makes of *subject*, a value or what makes one."""
    outcomes = []
    for form in TWINS.values():
        found = outcome(getattr(form, function), subject, *arguments)
        outcomes.append(found if view is None or isinstance(found, str) else view(found))
    for found in outcomes[1:]:
        if found != outcomes[0] or type(found) is not type(outcomes[0]):
            raise Mismatch(f"{function}: {' is not '.join(ascii(found)[:500] for found in (outcomes[0], found))}")
    return outcomes[0]


def _expect(is_so: bool, what: str, *shown: Any) -> None:
    if not is_so:
        raise Mismatch(f"{what}: {', '.join(ascii(value)[:500] for value in shown)}")


def check_text(text: str, verdicts: Counter[str]) -> None:
    """Feed one text to the codecs of both forms, and compare with the grammar."""
    context = _same("parse_traceparent", text, view=fields_of)
    match = _TRACEPARENT.fullmatch(text.strip(" \t"))
    is_good = (
        match is not None and len(text) <= 512 and not (text.strip(" \t")[:2] == "00" and match["more"] is not None)
    )
    _expect((context is not None) is is_good, "parse_traceparent is not the grammar", text)
    if is_good:
        _, trace_id, span_id, flags = text.strip(" \t").split("-")[:4]
        _expect(context[:2] == (bytes.fromhex(trace_id + span_id), int(flags, 16)), "parse_traceparent misread", text)
    verdicts["traceparent good" if is_good else "traceparent bad"] += 1

    count = _same("count_tracestate", text)
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]
    is_good = len(text) <= 16447 and len(members) <= 32 and all(map(_STATE_MEMBER.fullmatch, members))
    _expect(count == (len(members) if is_good else -1), "count_tracestate is not the grammar", text, count)
    verdicts["tracestate good" if is_good else "tracestate bad"] += 1

    labels, dropped = _same("parse_baggage", text)
    if len(text) <= 8192:
        good = [member for member in members if _LABEL.fullmatch(member)]
        _expect(len(labels) == min(len(good), 64), "parse_baggage is not the grammar", text, labels)
        _expect(dropped == len(members) - len(labels), "parse_baggage counts wrong", text, dropped)
    verdicts["baggage members"] += len(labels)
    verdicts["baggage members left out"] += dropped
    out, kept = _same("format_baggage", labels)
    _expect(len(out) <= 8192 and kept <= 64, "format_baggage is over a limit", text)
    _expect(_same("parse_baggage", out) == (labels[:kept], 0), "labels change on the way", text, out)

    escaped = _same("escape_label", text)
    if not any("\ud800" <= char <= "\udfff" for char in text):
        _expect(_same("unescape_label", escaped) == text, "a value changes on the way", text)
    if text.isascii():
        _same("unescape_label", text)
    for name in ("is_state_key", "is_state_value", "is_label_key"):
        _same(name, text)
    for digits in (16, 32):
        _same("parse_hex", text, digits)


def check_carrier(make: Callable[[], Any], verdicts: Counter[str]) -> None:
    """Read one carrier by both forms, by the formats and by ``extract``, and send on what was found."""
    found = [outcome(form.Sieve(FIELDS).collect, make) for form in TWINS.values()]
    _expect(all(fields == found[0] for fields in found), "the implementations collect different fields", *found)
    read = _same("read_tracecontext", make, view=fields_of)
    verdicts["refused" if isinstance(read, str) else "read" if read else "absent"] += 1
    outcome(TRACECONTEXT.read, make)
    baggage = outcome(BAGGAGE.read, make)
    context = outcome(tracekit.extract, make)
    _expect(not isinstance(baggage, str) and not isinstance(context, str), "it raised", baggage, context)
    _expect((context is not None and context.is_valid) is isinstance(read, tuple), "extract and read disagree", make())
    if context is None:
        _expect(baggage is None, "extract lost labels", make())
        return
    verdicts["extracted"] += 1
    _expect(context.labels == (Labels() if baggage is None else baggage.labels), "extract lost labels", make())
    sent: dict[str, str] = tracekit.inject({}, context)
    for name, text in sent.items():
        _expect(_SENT.fullmatch(text) is not None, "an illegal header goes out", name, text)
    again = tracekit.extract([(name.encode(), text.encode("ascii")) for name, text in sent.items()])
    ids, flags, *rest = fields_of(context)
    _expect(fields_of(again) == (ids, flags & 3, *rest), "what went out comes in otherwise", sent, make())


def check_format(name: str, make: Callable[[], Any], words: Any, verdicts: Counter[str]) -> None:
    """Read one carrier by one format on both forms, and send on what was found, with hostile *words* too."""
    contexts = {form: outcome(formats[name].read, make) for form, formats in FORMATS.items()}
    read = _agreed(
        f"{name}.read", (found if isinstance(found, str) else fields_of(found) for found in contexts.values())
    )
    verdicts[f"{name} {'refused' if isinstance(read, str) else 'read' if read else 'absent'}"] += 1
    if not isinstance(read, tuple):
        return
    for formats in FORMATS.values():
        if hasattr(formats[name], "left_out"):
            formats[name].left_out = 0
    sent = _written(name, contexts, verdicts)
    is_whole = _agreed(f"{name}.left_out", [getattr(formats[name], "left_out", 0) for formats in FORMATS.values()]) == 0
    again = {form: outcome(formats[name].read, sent) for form, formats in FORMATS.items()}
    said = _agreed(f"{name}.read", (None if isinstance(found, str) else _said(found) for found in again.values()))
    wanted = _said(next(iter(contexts.values())))
    if name == "jaeger" and wanted is not None and any(wanted[0]):
        wanted = (*wanted[:2], False, *wanted[3:])  # a missing decision is written as not sampled
    if said is None or wanted is None or is_whole:
        _expect(said == wanted or not is_whole, f"{name}: what went out comes in otherwise", sent, make())
    else:
        verdicts["fields left out"] += 1
        _expect(said[:3] == wanted[:3], f"{name}: what went out comes in otherwise", sent, make())
    if said is None:
        return
    _expect(_written(name, again, verdicts) == sent, f"{name}: what went out goes out otherwise", sent, make())
    hostile = {form: context.replace(extra={name: words}) for form, context in contexts.items()}
    sent = _written(name, hostile, verdicts)
    for form, formats in FORMATS.items():
        found = outcome(formats[name].read, sent)
        _expect(not isinstance(found, str), f"{name}: what hostile words made is bad", sent, words, found)
        _expect(found is None or found.id == hostile[form].id, f"{name}: hostile words change the ids", sent, words)
        if found is not None and (found.id[16:] != bytes(8) or found.sampled):  # without ids not every format has one
            _expect(found.sampled == said[1], f"{name}: hostile words change the decision", sent, words)


def _written(name: str, contexts: dict[str, Any], verdicts: Counter[str]) -> dict[str, Any]:
    """Return what *contexts*, one of each form, write, which must be the same and legal."""
    carriers: list[dict[str, Any]] = []
    for form, context in contexts.items():
        carriers.append({})
        found = outcome(FORMATS[form][name].write, context, carriers[-1])
        _expect(found is None, f"{name}.write raised", found)
    for field, text in _agreed(f"{name}.write", carriers).items():
        _expect(name == "environ" or bool(_SENT_NAME.fullmatch(field)), "an illegal name goes out", field, text)
        _expect(_is_legal(text), "an illegal header goes out", field, text)
        verdicts["fields written"] += 1
    return carriers[0]


def _is_legal(text: str | bytes) -> bool:
    # gRPC's entries that end in -bin may be any octets; a label may be empty.
    return isinstance(text, bytes) or text == "" or _SENT.fullmatch(text) is not None


def _said(context: Any) -> Any:
    """Return what of *context* a format has to say again: not which labels it left out, nor what was malformed."""
    if context is None:
        return None
    id, flags, deferred, state, labels, _, extra = fields_of(context)
    if "datadog" in extra:
        kept = tuple(pair for pair in extra["datadog"] if pair[0] != "error")
        extra = {"datadog": kept} if kept else {}
    return id, flags & 1, deferred, state, labels, extra


def _agreed(what: str, outcomes: Iterable[Any]) -> Any:
    first, *others = outcomes
    for found in others:
        if found != first:
            raise Mismatch(f"{what}: {ascii(first)[:500]} is not {ascii(found)[:500]}")
    return first


def check_all(make: Callable[[], Any], verdicts: Counter[str]) -> None:
    """Read one carrier with all formats configured, and send on what was found."""
    context = outcome(tracekit.extract, make)
    _expect(not isinstance(context, str), "it raised", context, make())
    if context is None:
        return
    sent: dict[str, Any] = tracekit.inject({}, context)
    for name, text in sent.items():
        _expect(_is_legal(text), "an illegal header goes out", name, text)
    if context.id != bytes(24):
        verdicts["extracted with all formats"] += 1
        again = tracekit.extract(list(sent.items()))
        _expect(again is not None and again.id == context.id, "what went out comes in otherwise", sent, make())


def check_w3c(pairs: list[Any], rng: random.Random, verdicts: Counter[str]) -> None:
    """Check the W3C formats with *pairs*, as they are and in some other shape."""
    for pair in pairs:
        if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], str | bytes):
            check_text(pair[1] if isinstance(pair[1], str) else pair[1].decode("latin-1"), verdicts)
    check_carrier(lambda: pairs, verdicts)
    check_carrier(make_shape(pairs, rng), verdicts)


def check_fields(name: str, pairs: list[Any], rng: random.Random, verdicts: Counter[str]) -> None:
    """Check the format *name* with *pairs*, and all formats with these and more."""
    if name == "environ":
        check_format(name, lambda: dict(pairs), make_words(rng), verdicts)
        return
    check_format(name, make_shape(pairs, rng), make_words(rng), verdicts)
    more = make_fields(rng, rng.choice(NAMES)) if rng.random() < 0.5 else make_carrier(rng)
    _propagation.use_formats(CONFIGURED)
    try:
        check_all(make_shape(pairs + more, rng), verdicts)
    finally:
        _propagation.use_formats(_propagation.DEFAULT_FORMATS)


def run(*, seed: int, inputs: int, first: int = 0) -> Counter[str]:
    """Check *inputs* carriers, and return how often each verdict came. Raises ``Mismatch`` that names the input."""
    verdicts: Counter[str] = Counter()
    for number in range(first, first + inputs):
        rng = random.Random(f"{seed}/{number}")
        name = NAMES[number // 2 % len(NAMES)]
        pairs = make_fields(rng, name) if number % 2 else make_carrier(rng)
        try:
            if number % 2:
                check_fields(name, pairs, rng, verdicts)
            else:
                check_w3c(pairs, rng, verdicts)
        except Mismatch as error:
            error.add_note(
                f"again: python -m tests.tools.fuzz --seed {seed} --first {number} --inputs 1\n{ascii(pairs)[:2000]}"
            )
            raise
    verdicts["inputs"] = inputs
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description="Throw mutated and random headers at both forms.")
    parser.add_argument("--inputs", type=int, default=200_000, help="how many carriers (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same inputs (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input (default: %(default)s)")
    parser.add_argument("--jobs", type=int, help="how many processes (default: one for each processor)")
    arguments = parser.parse_args()
    print(f"forms: {', '.join(TWINS)}; formats: {', '.join(NAMES)}; seed {arguments.seed}", flush=True)
    verdicts: Counter[str] = Counter()
    end = arguments.first + arguments.inputs
    with ProcessPoolExecutor(arguments.jobs) as pool:
        tasks = [
            pool.submit(run, seed=arguments.seed, inputs=min(_CHUNK, end - first), first=first)
            for first in range(arguments.first, end, _CHUNK)
        ]
        try:
            for task in tasks:
                verdicts += task.result()
                print(f"{verdicts['inputs']} inputs", flush=True)
        except Mismatch as error:
            pool.shutdown(cancel_futures=True)
            print("\n".join([f"mismatch: {error}", *error.__notes__]), file=sys.stderr)
            return 1
    for verdict, count in sorted(verdicts.items()):
        print(f"{count:10} {verdict}")
    print("no mismatch")
    return 0


if __name__ == "__main__":
    sys.exit(main())
