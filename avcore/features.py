"""What leaves one stream, and what of it lies on disk.

Shape letters: B clips, T segments, M = B*T, N tokens, D width, Y and X rows and columns; K sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

__all__ = ["FIELDS", "Kept", "StreamFeatures", "TextFeatures", "by_segment", "noting", "of_segments"]


@dataclass(frozen=True, kw_only=True)
class StreamFeatures:
    """What leaves one stream.

    Of what is kept on disk, and of a companion whose head says what it reads (`Head.companion_reads`), the other fields
    are not there.

    Attributes:
        pooled: (B, T, D), class token or mean of ``tokens``, as the layout says.
        tokens: (M, N, D) after the final norm.
        raw_tokens: (M, N, D) before the final norm.
        maps: one (M, D, Y, X) for each tap of the layout; the last one is normed.
    """

    pooled: Tensor
    tokens: Tensor
    raw_tokens: Tensor
    maps: tuple[Tensor, ...]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            if name not in {one.name for one in fields(self)}:
                raise AttributeError(f"'{type(self).__name__}' has no '{name}'.")
            held = [one.name for one in fields(self) if one.name in vars(self)]
            raise AttributeError(
                f"These features hold {', '.join(held)} alone, and '{name}' is read: name it in Head.companion_reads; "
                "where it is no companion's, data.cache_features=false makes all."
            )


FIELDS = tuple(one.name for one in fields(StreamFeatures))
"""What may be read of a stream."""


@dataclass(frozen=True, kw_only=True)
class TextFeatures:
    """What leaves the stream of sentences.

    Attributes:
        pooled: (K, D), one vector for each sentence.
        tokens: (K, N, D) after the final norm.
        raw_tokens: (K, N, D) before the final norm.
        offers, sums, statistics: of prompts on this stream, as `Features` has them, under ``"part.text.name"``.
    """

    pooled: Tensor
    tokens: Tensor
    raw_tokens: Tensor
    offers: Mapping[str, list[Tensor]] = field(default_factory=dict)
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What lies on disk of the features that frozen streams make of the clips of a batch.

    Attributes:
        known: stream -> of each of the B clips, whether its features were found.
        features: ``stream.field`` -> those of the known clips in their order, (their segments, ...).
        files: stream -> for each of the B clips the files of its T segments, where others are to be kept.
    """

    known: Mapping[str, Sequence[bool]]
    features: Mapping[str, Tensor]
    files: Mapping[str, Sequence[Sequence[str]]]

    def map(self, function: Callable[[Tensor], Tensor]) -> Kept:
        """The same with ``function`` of every tensor."""
        return replace(self, features={name: function(tensor) for name, tensor in self.features.items()})


def noting(features: StreamFeatures, read: set[str]) -> StreamFeatures:
    """The same features, which note in ``read`` what is read of them."""

    class Noting(StreamFeatures):
        def __getattribute__(self, name: str) -> Any:
            if name in FIELDS:
                read.add(name)
            return super().__getattribute__(name)

    made = object.__new__(Noting)
    vars(made).update(vars(features))
    return made


def by_segment(features: StreamFeatures, wanted: Sequence[str]) -> dict[str, Tensor]:
    """Fields as tensors of M segments, (M, ...): ``maps`` as ``maps.0`` and so on, (M, Y, X, D).

    So maps lie in memory as the tokens that they are views of, and do when they come back: convolutions may round
    otherwise where channels go first.
    """
    made: dict[str, Tensor] = {}
    for name in wanted:
        if name == "maps":
            made |= {f"maps.{number}": one.permute(0, 2, 3, 1) for number, one in enumerate(features.maps)}
        else:
            made[name] = features.pooled.flatten(0, 1) if name == "pooled" else getattr(features, name)
    return made


def of_segments(given: Mapping[str, Tensor], segments: int) -> StreamFeatures:
    """The way back from `by_segment`, with those fields alone."""
    made = object.__new__(StreamFeatures)
    vars(made).update({name: tensor for name, tensor in given.items() if not name.startswith("maps.")})
    if "pooled" in given:
        vars(made)["pooled"] = given["pooled"].unflatten(0, (-1, segments))
    maps = sorted((name for name in given if name.startswith("maps.")), key=lambda name: int(name[5:]))
    if maps:
        vars(made)["maps"] = tuple(given[name].permute(0, 3, 1, 2) for name in maps)
    return made
