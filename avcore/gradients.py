"""Which parameters a training would reach, from shapes alone: autograd's graph on the meta device, no backward pass."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from avcore.backbones.copies import tensors_in
from avcore.discovery.records import one_line
from avcore.errors import AssemblyError, AVCoreError
from avcore.features import FIELDS, noting
from avcore.injection import Part
from avcore.model import AVModel, Output
from avcore.shapes import RememberedShapes
from avcore.sites import watched
from avcore.states import parameter_groups
from avcore.tasks import Batch, Features, Input, Progress

__all__ = ["Followed", "blank_batch", "copied_tensors", "follow_losses", "leave_untrained", "try_parts"]

CLIPS = 3
"""B of the forward: batch statistics need more than one clip, and what takes B*T for even shall not pass."""


class Followed(NamedTuple):
    """What following the losses of a model found.

    Attributes:
        unread: the trainable parameters that no loss depends on in any epoch, by the names they are saved under.
        notice: what the user must be told; empty where all is well.
        reads: the fields of `StreamFeatures` that are read behind the streams, by stream; all where that is not known.
    """

    unread: tuple[str, ...] = ()
    notice: str = ""
    reads: Mapping[str, Sequence[str]] = MappingProxyType({})


def follow_losses(model: AVModel) -> Followed:
    """Which trainable parameters no loss of this model depends on, whatever the epoch.

    One forward in training mode, with companions as the head asks for them, then the losses as they are in each epoch.
    A head that does not declare what its loss reads (`Head.targets`) is followed from its outputs.

    Args:
        model: on the meta device.

    Raises:
        AVCoreError: parameters of parts reach nothing at all, whatever the head reads.
    """
    with RememberedShapes(), watched(model.instances):
        followed = _follow(model)
        return followed if model.clips.instances else followed._replace(reads=_reads(model))


def _reads(model: AVModel) -> dict[str, tuple[str, ...]]:
    """What the head, and the losses of parts on sentences, read of streams that nothing acts on; all if they fail."""
    made = model.features(blank_batch(model, companions=True))
    read: dict[str, set[str]] = {name: set() for name in model.clips}
    seen = replace(made, streams={name: noting(one, read[name]) for name, one in made.streams.items()})
    try:
        for mode in (True, False):
            values = model.train(mode).head(seen)
            list(_part_losses(model, seen))
            model.predict(Output(values, seen))
    except Exception:
        return dict.fromkeys(read, FIELDS)
    # Of a stream that nobody reads the smallest field, since it is among `Features.streams` all the same.
    return {name: tuple(field for field in FIELDS if field in (found or {"pooled"})) for name, found in read.items()}


def try_parts(model: AVModel) -> None:
    """One forward in training mode, of the streams and parts alone.

    Args:
        model: on the meta device.

    Raises:
        AVCoreError: a part fails, breaks a rule of its site, or has parameters that reach nothing at all.
    """
    with RememberedShapes(), watched(model.instances):
        _checked(model, blank_batch(model))


def _checked(model: AVModel, batch: Batch) -> Features:
    features = model.train().features(batch)
    _check_parts(model, features, dict(parameter_groups(model)["parts"]))
    return features


def _follow(model: AVModel) -> Followed:
    groups, head = parameter_groups(model), model.config.head.name
    batch = blank_batch(model, companions=True)
    features = _checked(model, batch)
    unread = {name: one for group in groups.values() for name, one in group}
    try:
        out = Output(model.head(features), features)
        for reached in _followed(model, out, batch):
            leaves = _leaves(reached)
            unread = {name: one for name, one in unread.items() if id(one) not in leaves}
            if not unread:
                return Followed()
    except AVCoreError:
        raise
    except Exception as error:
        return Followed(
            notice=f"Head '{head}' does not run on shapes alone ({one_line(error)}), so nobody looked for parameters "
            "that its losses do not depend on."
        )
    shown = f"{', '.join([*unread][:3])}{', ...' if len(unread) > 3 else ''}"
    count = sum(one.numel() for one in unread.values())
    number = "1 parameter stays as it is" if count == 1 else f"{count:,} parameters stay as they are"
    notice = f"{number}, because no loss of head '{head}' depends on {'it' if count == 1 else 'them'}: {shown}."
    return Followed(tuple(unread), notice)


def copied_tensors(model: AVModel) -> set[int]:
    """The ids of the copies of a backbone's tensors (`Part.backbone_tensors`).

    A forward may leave some out, such as those of which a tower keeps what it once made of them.
    """
    backbones = [cast(nn.ModuleDict, own) for part in model.instances for own in part.module.backbone.values()]
    return {id(held.tensor) for own in backbones for _, held in tensors_in(own)}


def leave_untrained(model: AVModel, followed: Followed) -> AVModel:
    """The same model, where what no loss depends on needs no gradient, with the notice.

    What remains gets a gradient from the losses, so that `DistributedDataParallel` need not look for unused parameters.
    """
    parameters = {name: one for group in parameter_groups(model).values() for name, one in group}
    for name in followed.unread:
        parameters[name].requires_grad_(False)
    model.notices += (followed.notice,) if followed.notice else ()
    model.reads = {**model.reads, **followed.reads}
    return model


def _check_parts(model: AVModel, features: Features, parts: dict[str, Any]) -> None:
    reached = [
        tensor for stream in features.streams.values() for tensor in (stream.pooled, stream.tokens, *stream.maps)
    ]
    reached += [tensor for offered in features.offers.values() for tensor in offered]
    for name, encoder in model.encoders.items():
        length = model.streams[name].tower.geometry.length  # type: ignore[union-attr]
        sentences = encoder(torch.zeros(1, length, dtype=torch.long))
        reached += [sentences.pooled, sentences.tokens, *(one for many in sentences.offers.values() for one in many)]
    leaves = _leaves([*reached, *_part_losses(model, features)])
    leaves |= copied_tensors(model)
    missed = [name for name, parameter in parts.items() if id(parameter) not in leaves]
    if missed:
        finishing = [part.name for part in model.instances if type(part.module).finish is not Part.finish]
        blame = f" The features pass through 'finish' of {', '.join(finishing)}." if finishing else ""
        raise AssemblyError(
            f"{len(missed)} trainable parameters would get no gradient: {', '.join(missed[:5])}"
            f"{', ...' if len(missed) > 5 else ''}.{blame} Leave that part out, or list what it would never use in "
            f"'unused_in_reference'."
        )


def _part_losses(model: AVModel, features: Features) -> Iterator[Tensor]:
    for part in model.instances:
        if part.overrides(Part, "losses"):
            yield from part.module.losses(features).values()


def _followed(model: AVModel, out: Output, batch: Batch) -> Iterator[list[Tensor]]:
    """The losses of parts, then what the head gives: its losses of each epoch, or its outputs.

    Losses that begin later, or end before the last epoch, count too. Those of a run without epochs are of the first.
    """
    yield list(_part_losses(model, out.features))
    if not model.head.targets:
        yield list(out.values.values())
        return
    epochs = max(1, model.config.train.epochs)
    for epoch in range(epochs):
        progress = Progress(epoch=epoch, epochs=epochs, step=epoch, steps=epochs)
        yield list(model.head.loss(out.values, batch, progress).values())


def _leaves(tensors: Iterable[Tensor]) -> set[int]:
    """The ids of the parameters that tensors depend on: autograd's graph, walked as DDP walks it, without a backward.

    On the meta device a backward pass costs more than all the rest of assembly, and finds the same.
    """
    tensors = list(tensors)
    waiting: list[Any] = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    leaves = {id(tensor) for tensor in tensors if tensor.is_leaf and tensor.requires_grad}
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return leaves


def blank_batch(model: AVModel, clips: int = CLIPS, *, companions: bool = False) -> Batch:
    """Zeros in the shapes that a model takes, on torch's default device.

    Args:
        model: says the shapes.
        clips: B.
        companions: also those that the head asks for.
    """
    frames = waveform = None
    if model.image is not None:
        frames = torch.zeros(clips, model.segments, *model.image.shape, dtype=torch.uint8)
    if model.sound is not None:
        waveform = torch.zeros(clips, *model.sound.shape(model.clip_seconds), dtype=torch.int16)
    return Batch(
        frames=frames,
        waveform=waveform,
        targets=_zeros(model.head.targets, clips),
        names=["shapes"] * clips,
        inputs=_zeros(model.task.inputs, clips),
        samples=torch.zeros(clips, dtype=torch.long),
        valid=torch.ones(clips, dtype=torch.bool),
        companions={name: blank_batch(model, clips) for name in model.head.companions} if companions else {},
    )


def _zeros(given: Mapping[str, Input], clips: int) -> dict[str, Tensor]:
    return {name: one.zeros(clips) for name, one in given.items()}
