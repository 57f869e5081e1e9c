import pytest

from avcore.data.cuts import Cuts


@pytest.mark.parametrize(
    ("duration", "count", "starts"),
    [
        (10.0, 10, (0, 5)),
        (5.02, 5, (0,)),
        (4.96, 5, (0,)),
        (7.4, 7, (0, 2)),
        (7.6, 8, (0, 3)),
        (11.0, 11, (0, 5, 6)),
        (3.0, 3, (0,)),
        (0.6, 1, (0,)),
    ],
)
def test_segments_and_clips_of_any_length(duration, count, starts):
    cuts = Cuts.of(duration, 5.0, 5)
    assert (cuts.count, cuts.starts, cuts.seconds) == (count, starts, 1.0)


def test_every_segment_is_seen_by_a_clip():
    for tenths in range(1, 300):
        cuts = Cuts.of(tenths / 10, 5.0, 5)
        seen = {start + index for start in cuts.starts for index in range(5)}
        assert seen >= set(range(cuts.count))
        assert cuts.seen == max(seen) + 1


def test_times_and_samples():
    cuts = Cuts.of(2.8, 10.0, 20)
    assert cuts.times(2.8) == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, 2.0), (2.0, 2.5), (2.5, 2.8)]
    assert [cuts.at(time) for time in (0.0, 0.499, 0.5, 2.79, 99.0)] == [0, 0, 1, 5, 5]
    assert cuts.samples(3, 2, 16000) == slice(24000, 40000)
