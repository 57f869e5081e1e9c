"""What is written on pictures has the letters of the text, or plain ones."""

import pytest

from avcore.report import text
from avcore.report.text import fitted, lettered


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "FONTS", ())
    lettered.cache_clear()
    yield
    lettered.cache_clear()


@pytest.mark.usefixtures("no_fonts")
@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("Dog, bark", "Dog, bark"),
        ("Vögel, Baß", "Vogel, Bass"),
        ("Ba\u0308r", "Bar"),
        ("café ñ Å", "cafe n A"),
        ("犬 dog", "? dog"),
    ],
)
def test_without_a_font_that_has_them_letters_become_plain(given: str, written: str) -> None:
    assert lettered(given, 20)[0] == written
    assert fitted(given, 1000, 20, 10)[0] == written


def test_a_font_that_has_the_letters_is_taken_where_there_is_one() -> None:
    plain, own = lettered("Vogel", 20)
    assert (plain, own.getlength("Vogel") > 0) == ("Vogel", True)
    written, font = lettered("Vögel", 20)
    there = any(map(text._system_font, text.FONTS))
    assert written == ("Vögel" if there else "Vogel")
    assert bytes(font.getmask(written[1])) != bytes(font.getmask(text.LACKING))


@pytest.mark.usefixtures("no_fonts")
def test_what_is_too_long_is_written_smaller_and_then_cut() -> None:
    _, large = lettered("a long name", 20)
    width = int(large.getlength("a long name"))
    assert fitted("a long name", width + 1, 20, 10)[0] == "a long name"
    name, smaller = fitted("a long name", width - 1, 20, 10)
    assert (name, smaller.getlength(name) < width) == ("a long name", True)
    cut, font = fitted("a long name, and more", 60, 20, 20)
    assert cut.endswith("...")
    assert font.getlength(cut) <= 60
    assert fitted("a long name", 2, 20, 20)[0] == ""
