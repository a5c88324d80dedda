"""The pictures of the documents are those that their command draws now."""

import xml.etree.ElementTree as ElementTree

import pytest

from docs.pictures import IMAGES, STORIES, pictures, play

PICTURES = pictures()


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_from_the_present_code(name):
    ElementTree.fromstring(PICTURES[name])
    assert (IMAGES / name).read_text(encoding="utf-8") == PICTURES[name], "python -m docs.pictures draws it"


def test_a_task_keeps_the_parent_that_it_inherited_and_its_opener_does_not():
    states = list(play(STORIES["scopes-inherited"]))
    assert states[2] == {"request": "", "new task": "a, ended"}


def test_a_scope_that_another_task_closed_is_not_current_where_it_was_opened():
    states = list(play(STORIES["scopes-elsewhere"]))
    assert states[2] == {"opener": "", "other task": ""}


def test_the_readme_describes_its_badges_in_words():
    (title,) = ElementTree.fromstring(PICTURES["badges.svg"]).iter("{http://www.w3.org/2000/svg}title")
    assert f"![{title.text}](docs/images/badges.svg)" in (IMAGES.parents[1] / "README.md").read_text(encoding="utf-8")
