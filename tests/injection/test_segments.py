"""``segment_embedding``, offered by avcore itself."""

import torch

import avcore_timm
from avcore.states import load_trainable_state, parameter_groups, trainable_state
from avcore.testing.toys import make_batch, make_model

SETS = ("audio.frames=48", "audio.mel_bins=32")


def test_it_is_zero_at_first_and_counts_t_times_d_for_each_stream() -> None:
    model = make_model(avcore_timm, "test_vit", listed=["segment_embedding"], sets=SETS, segments=3)
    bare = make_model(avcore_timm, "test_vit", sets=SETS, segments=3)
    assert {name: tuple(p.shape) for name, p in parameter_groups(model)["parts"]} == {
        "segment_embedding.visual.embedding": (3, 64),
        "segment_embedding.audio.embedding": (3, 64),
    }
    data = make_batch(model)
    for stream in ("visual", "audio"):
        assert torch.equal(model.features(data).stream(stream).tokens, bare.features(data).stream(stream).tokens)


def test_every_token_of_segment_t_receives_vector_t() -> None:
    model = make_model(avcore_timm, "test_vit", listed=["segment_embedding"], sets=SETS, segments=3)
    state = {key: torch.randn_like(value) for key, value in trainable_state(model).items()}
    load_trainable_state(model, state)
    entered: dict[str, torch.Tensor] = {}
    for stream, tower in model.towers.items():
        tower.enter = lambda x, stream=stream: entered.setdefault(stream, x)  # type: ignore[method-assign]
    data = make_batch(model)
    model.features(data)
    for stream, image in model.front_ends(data).items():
        added = entered[stream] - model.towers[stream].embed(image)  # type: ignore[operator]
        table = state[f"segment_embedding.{stream}.embedding"]
        for clip in range(2):
            for segment in range(3):
                expected = table[segment].expand(added.shape[1], -1)
                torch.testing.assert_close(added[clip * 3 + segment], expected, rtol=0, atol=1e-5)
