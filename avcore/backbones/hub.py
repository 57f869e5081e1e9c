"""Weights from the Hugging Face hub where there may be no network."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ask_hub_once"]

TIMEOUT = 3.0
"""s to wait for the hub's answer, names looked up included."""
REMEMBERED = 60.0
"""s for which an answer holds: a model may be made of several backbones, each with files of its own."""

_answered: dict[str, tuple[float, bool]] = {}
"""Address -> when it was asked, by `time.monotonic`, and whether it answered."""


@contextmanager
def ask_hub_once() -> Iterator[None]:
    """Within it, loaders take what was fetched before, or fail at once, where one short question finds no hub.

    By themselves they ask again for half a minute, for each name that a file may have. ``HF_HUB_OFFLINE`` asks nothing.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _answers(address: str) -> bool:
    asked, answer = _answered.get(address, (-REMEMBERED, False))
    if time.monotonic() - asked > REMEMBERED:
        answer = _ask(address)
        _answered[address] = time.monotonic(), answer
    return answer


def _ask(address: str) -> bool:
    """Whether a hub answers in time.

    The thread is left behind if it does not: no timeout ends the look-up of a name.
    """
    import huggingface_hub

    answers: list[bool] = []

    def ask() -> None:
        try:
            status = huggingface_hub.get_session().head(address, timeout=TIMEOUT).status_code
        except Exception:  # of whichever library it asks with: no route, no name, no answer in time
            return
        answers.append(status < 500)

    asking = threading.Thread(target=ask, name="avcore-hub", daemon=True)
    asking.start()
    asking.join(TIMEOUT)
    return answers == [True]
