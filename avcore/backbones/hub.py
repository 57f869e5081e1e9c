"""Weights from the Hugging Face hub where there may be no network."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ask_hub_once"]

TIMEOUT = 5.0
"""s to wait for the hub's answer."""


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
    import huggingface_hub

    try:
        huggingface_hub.get_session().head(address, timeout=TIMEOUT)
    except Exception:  # of whichever library it asks with: no route, no name, no answer in time
        return False
    return True
