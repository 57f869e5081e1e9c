from typing import Any

import pytest
import torch
from levels import Levels, joined

from avcore.data.reader import PARTNER
from avcore.errors import AVCoreError
from avcore.tasks import Clip


@pytest.mark.parametrize("workers", [0, 2])
def test_every_clip_comes_with_the_sound_of_another(load: Any, workers: int) -> None:
    loader, alone = load(partners=True, workers=workers), load(partners=True)
    pairs: list[dict[int, int]] = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        alone.set_epoch(epoch)
        pairs.append({})
        for batch, same in zip(loader, alone, strict=True):
            partner = batch.companions[PARTNER]
            assert partner.frames is None
            assert torch.equal(partner.waveform, same.companions[PARTNER].waveform)
            assert torch.equal(partner.samples, batch.samples)
            for place, number in enumerate(batch.samples.tolist()):
                other = int(partner.waveform[place, 0]) - 1
                assert partner.names[place] == f"clip {other}"
                assert other != number
                assert pairs[-1].setdefault(number, other) == other
    assert len({tuple(sorted(one.items())) for one in pairs}) == 3
    assert len({other for one in pairs for other in one.values()}) > 7
    # The rest of the epoch, after a stop: the same.
    alone.set_epoch(2)
    alone.set_position(1)
    rest = [(batch.samples.tolist(), batch.companions[PARTNER].waveform[:, 0] - 1) for batch in alone]
    assert all([pairs[2][one] for one in samples] == others.tolist() for samples, others in rest)


def test_partners_of_one_clip_and_of_a_stream_that_is_off(load: Any, clips: list[Clip]) -> None:
    (batch,) = load(dataset=Levels(clips[:1]), partners=True, last="keep")
    assert torch.equal(batch.companions[PARTNER].waveform, batch.waveform)
    assert all(batch.companions == {} for batch in load(partners=True, audio=None))
    assert all(batch.companions == {} for batch in load())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sound_that_cannot_be_read_is_nobodys_partner(load: Any, holed: Levels, workers: int) -> None:
    told: dict[str, str] = {}
    loader = load(
        dataset=holed, partners=True, workers=workers, broken="replace", broken_limit=0.2, on_broken=told.__setitem__
    )
    heard = []
    for epoch in range(6):
        loader.set_epoch(epoch)
        heard += [batch.companions[PARTNER].names for batch in loader]
    assert "clip 2" not in joined(heard)
    assert "clip 7" in joined(heard)  # its sound is whole
    assert told.keys() == {"clip 2", "clip 7"}
    again = load(dataset=holed, partners=True, broken="replace", broken_limit=0.2)
    again.set_epoch(5)
    assert [batch.companions[PARTNER].names for batch in again] == heard[-3:]
    with pytest.raises(AVCoreError, match=r"nowhere/2\.wav"):
        list(load(dataset=holed, partners=True))
