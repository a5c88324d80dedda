"""The message and the stack trace of an exception as text, bounded before the work is done.

The text is that of the ``traceback`` module without the markers under the source lines. That module walks a chain
of causes to its end, looks up the source line of every frame, and calls methods of the exception without a guard.
"""

from __future__ import annotations

import os

from .attributes import MISSING, Bounded, pruned
from .guard import ask, class_name, plain_text
from .stdlib import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

# Bounds on the text of one exception, or of the errors in one group together.
_EXCEPTIONS = 32  # formatted: causes, contexts, and members of groups
_CHAIN = 1_000  # causes and contexts counted
_FRAMES = 64  # formatted for each exception, from the innermost on ...
_OUTERMOST = 8  # ... and so many more, from the outermost on
_WALK = 10_000  # frames counted
_MEMBERS = 15  # formatted for each group, as traceback does
_CHARACTERS = 24 * 1024  # of messages ...
_LEAST_MESSAGE = 128  # ... but so many of each
_DEPTH = 4  # levels of groups within groups
_NOTES = 16  # for each exception
_FILES = 16  # source files newly read
_SOURCE = 512 * 1024  # octets of source newly read
_NAME = 512  # characters of the name of a file or a function
_LINE = 512  # characters of a source line
_LEAST = 512  # characters that must be left to begin with another exception
_RESERVE = 256  # characters for the lines that name the root and count the exceptions between

_HEADER = "Traceback (most recent call last):\n"
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"

# A subclass may define properties with these names.
_args: Any = BaseException.__dict__["args"].__get__
_cause: Any = BaseException.__dict__["__cause__"].__get__
_context: Any = BaseException.__dict__["__context__"].__get__
_is_context_hidden: Any = BaseException.__dict__["__suppress_context__"].__get__
_traceback: Any = BaseException.__dict__["__traceback__"].__get__
_members: Any = BaseExceptionGroup.__dict__["exceptions"].__get__


def message_of(exc: BaseException, limit: int) -> str:
    """Return ``str(exc)``, cut to *limit* characters; empty if that raises."""
    method = ask(_str_method, type(exc))
    if method is BaseException.__str__ or method is KeyError.__str__:
        args = _args(exc)
        if len(args) != 1:
            return _text(args, limit) if args else ""
        return _text(args[0], limit, str if method is BaseException.__str__ else repr)
    return plain_text(ask(str, exc), limit)


def _text(value: Any, limit: int, make: Callable[[Any], str] = str) -> str:
    """Return the text that *make* makes of *value*, cut to *limit*. A large value is cut before."""
    smaller = pruned(value, limit)
    return plain_text(ask(make, value if smaller is MISSING else smaller), limit)


def _str_method(kind: Any) -> Any:
    return kind.__str__


def stack_of(exc: BaseException, message: str, limit: int) -> Bounded:
    """Return the stack trace of *exc*, whose message is *message*, and of its causes in at most *limit* characters.

    The end is kept: *exc* with its innermost frames. Lines in brackets count the frames and causes left out.
    """
    texts = Texts()
    texts.messages[id(exc)] = message
    return texts.stack(exc, limit)


class Texts:
    """The messages and stack traces of one exception or of several, and the bounds that are left for all of them."""

    __slots__ = (
        "characters", "counted", "exceptions", "files", "is_cut", "lines", "messages", "octets", "seen", "texts", "walk"
    )  # fmt: skip

    def __init__(self) -> None:
        self.is_cut = False
        self.characters = _CHARACTERS
        self.counted = 0
        self.exceptions = _EXCEPTIONS
        self.walk = _WALK
        self.files = _FILES
        self.octets = _SOURCE
        self.lines: dict[str, list[str]] = {}
        self.messages: dict[int, str] = {}
        self.texts: dict[tuple[int, int], str] = {}
        self.seen: set[int] = set()

    def message(self, exc: BaseException, limit: int) -> Bounded:
        """Return ``str(exc)``, cut to *limit* characters, or to fewer where many have been written."""
        limit = min(limit, max(self.characters, _LEAST_MESSAGE))
        text = message_of(exc, limit + 1)
        bounded = Bounded(text[:limit])
        bounded.cuts = int(len(text) > limit)
        self.characters -= len(text)
        self.messages[id(exc)] = bounded
        return bounded

    def stack(self, exc: BaseException, limit: int) -> Bounded:
        """Return the stack trace of *exc* and of its causes in at most *limit* characters, as ``stack_of()`` does."""
        self.is_cut = False
        self.seen.clear()
        text = self.chain(exc, limit - min(_RESERVE, limit // 4), _DEPTH)
        bounded = Bounded(text[-limit:] if limit else "")
        bounded.cuts = int(self.is_cut or len(text) > limit)
        return bounded

    def chain(self, exc: BaseException, room: int, depth: int) -> str:
        """Return *exc* and its causes, the root first, in about *room* characters. The nearest are kept, and the root."""
        links, are_all = self.links(exc)
        blocks: list[str] = []
        for number, (link, relation) in enumerate(links):
            if number and (self.exceptions <= 0 or room < _LEAST):
                self.is_cut = True
                count = f"{len(links) - number - are_all}{'' if are_all else ' or more'}"
                blocks.append(relation if count == "0" else f"\n[{count} exceptions left out]\n{relation}")
                if are_all:
                    blocks.append(self.headline(links[-1][0], max(room // 2, 0)))
                break
            blocks.append(self.one(link, room - len(relation), depth) + relation)
            room -= len(blocks[-1])
        return "".join(reversed(blocks))

    def links(self, exc: BaseException) -> tuple[list[tuple[BaseException, str]], bool]:
        """Return *exc* and its causes, the nearest first, each with the text between it and its effect; and if all are."""
        links: list[tuple[BaseException, str]] = []
        following: BaseException | None = exc
        relation = ""
        while following is not None and id(following) not in self.seen and (not links or self.counted < _CHAIN):
            self.seen.add(id(following))
            links.append((following, relation))
            self.counted += 1
            cause = _cause(following)
            if cause is not None:
                following, relation = cause, _CAUSE
            else:
                following = None if _is_context_hidden(following) else _context(following)
                relation = _CONTEXT
        return links, following is None or id(following) in self.seen

    def one(self, exc: BaseException, room: int, depth: int) -> str:
        """Return the frames of *exc* and its last line, without its causes."""
        self.exceptions -= 1
        last = self.headline(exc, max(room // 2, 0))
        room -= len(last)
        members = ""
        if issubclass(type(exc), BaseExceptionGroup):
            members = self.members(_members(exc), room // 2, depth)
        return self.frames(_traceback(exc), room - len(members)) + last + members

    def members(self, members: tuple[BaseException, ...], room: int, depth: int) -> str:
        """Return the members of a group, indented."""
        blocks: list[str] = []
        for number, member in enumerate(members, 1):
            if number > _MEMBERS or depth == 0 or self.exceptions <= 0 or room < _LEAST:
                self.is_cut = True
                blocks.append(f"  | [{len(members) - number + 1} exceptions left out]\n")
                break
            share = room // min(len(members) - number + 1, 2)
            text = self.chain(member, share * 3 // 4, depth - 1)  # the rest is for the indentation
            lines = "".join([f"  | {line}\n" for line in text.splitlines()])
            blocks.append(f"  +---------------- {number} ----------------\n{lines}")
            room -= len(blocks[-1])
        return "".join(blocks) + "  +------------------------------------\n"

    def frames(self, traceback: TracebackType | None, room: int) -> str:
        """Return the innermost frames in at most *room* characters, and the outermost if there is room left."""
        if traceback is None:
            return ""
        first: list[TracebackType] = []
        last: deque[TracebackType] = deque(maxlen=_FRAMES)
        count = 0
        following: TracebackType | None = traceback
        while following is not None and self.walk:
            self.walk -= 1
            if count < _OUTERMOST:
                first.append(following)
            last.append(following)
            count += 1
            following = following.tb_next
        room -= len(_HEADER) + 64  # the longest line about frames that were left out
        inner: list[str] = []
        for entry in reversed(last):
            text = self.frame(entry)
            if len(text) > room:
                break
            room -= len(text)
            inner.append(text)
        outer: list[str] = []
        for entry in first[: count - len(inner)]:
            text = self.frame(entry)
            if len(text) > room:
                break
            room -= len(text)
            outer.append(text)
        left_out = count - len(inner) - len(outer)
        between = f"  [{left_out} frames left out]\n" if left_out else ""
        deeper = "" if following is None else "  [deeper frames left out]\n"
        self.is_cut |= bool(left_out or deeper)
        return _HEADER + "".join(outer) + between + "".join(reversed(inner)) + deeper

    def frame(self, entry: TracebackType) -> str:
        frame, number = entry.tb_frame, entry.tb_lineno or 0
        key = id(frame.f_code), number
        if key in self.texts:
            return self.texts[key]
        filename = str.__str__(frame.f_code.co_filename)
        text = f'  File "{filename[-_NAME:]}", line {number}, in {plain_text(frame.f_code.co_name, _NAME)}\n'
        lines = self.source(filename, frame.f_globals)
        line = plain_text(lines[number - 1], _LINE).strip() if 0 < number <= len(lines) else ""
        if line:
            text += f"    {line}\n"
        self.texts[key] = text
        return text

    def source(self, filename: str, module: dict[str, Any]) -> list[str]:
        """Return the lines of a source file; none if it is not found, or if enough files have been read."""
        lines = self.lines.get(filename)
        if lines is not None:
            return lines
        self.lines[filename] = lines = []
        try:
            import linecache  # costs milliseconds to import, and is needed only where something failed
        except ImportError:  # the interpreter is ending
            return lines
        if filename not in linecache.cache:
            self.files -= 1
            self.octets -= _size(filename)
        if self.files >= 0 and self.octets >= 0:
            try:
                self.lines[filename] = lines = list(linecache.getlines(filename, module))
            except Exception:  # a custom loader may raise anything
                pass
        return lines

    def headline(self, exc: BaseException, limit: int) -> str:
        """Return the lines that name *exc*: its class, its message and its notes."""
        message = self.messages.get(id(exc))
        if message is None:
            message = self.message(exc, limit)
            self.is_cut |= bool(message.cuts)
        texts: list[str] = [message]
        notes = ask(_notes, exc)
        if type(notes) is list or type(notes) is tuple:
            texts += [_text(note, limit + 1) for note in notes[:_NOTES]]
            self.is_cut |= len(notes) > _NOTES
        _, name = class_name(type(exc))
        if texts[0]:
            name += ": "
        for number, text in enumerate(texts):
            self.is_cut |= len(text) > limit
            texts[number] = text[:limit] + "\n"
            limit -= len(texts[number]) - 1
        return name + "".join(texts)


def _size(filename: str) -> int:
    try:
        return os.stat(filename).st_size
    except (OSError, ValueError):  # the source comes from a loader, or from nowhere
        return 0


def _notes(exc: BaseException) -> Any:
    return object.__getattribute__(exc, "__notes__")
