import io
import sys

import pytest

from avcore.engine.display import Display


def test_plain_lines_elsewhere_than_on_a_terminal(capsys):
    logged = []
    display = Display(logged.append)
    display.line("hello")
    with display.progress("epoch 1/2", 5, every=2) as advance:
        for done in range(1, 6):
            advance(done, f"loss {done}")
    expected = ["hello", "epoch 1/2: 2/5  loss 2", "epoch 1/2: 4/5  loss 4", "epoch 1/2: 5/5  loss 5"]
    assert capsys.readouterr().out.splitlines() == expected
    assert logged == expected


def test_quiet_shows_nothing_and_logs_everything(capsys):
    logged = []
    display = Display(logged.append, quiet=True)
    display.line("hello")
    with display.progress("work", 1, every=1) as advance:
        advance(1, "")
    assert capsys.readouterr().out == ""
    assert logged == ["hello", "work: 1/1"]


def test_a_log_that_comes_later_gets_what_was_said_before():
    display, logged = Display(quiet=True), []
    display.line("first")
    display.attach(logged.append)
    display.line("second")
    assert logged == ["first", "second"]


def test_a_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    logged = []
    with Display(logged.append).progress("epoch 1/2", 4, every=2) as advance:
        for done in range(1, 5):
            advance(done, "loss 0.5")
    assert "epoch 1/2" in terminal.getvalue()
    assert "━" in terminal.getvalue()
    assert logged == ["epoch 1/2: 2/4  loss 0.5", "epoch 1/2: 4/4  loss 0.5"]


def test_work_of_unknown_length_shows_its_quarters(capsys: pytest.CaptureFixture[str]) -> None:
    advance = Display().quarters("making")
    for done in range(1, 9):
        advance(done, 8)
    assert capsys.readouterr().out.splitlines() == ["making: 2/8", "making: 4/8", "making: 6/8", "making: 8/8"]
