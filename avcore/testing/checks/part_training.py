"""Checks of what trains, and of what must not. Shape letters: B clips, M = B*T."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from avcore.backbones import digest
from avcore.gradients import copied_tensors
from avcore.injection import Part
from avcore.model import AVModel
from avcore.states import parameter_groups
from avcore.tasks import Batch
from avcore.testing.cases.heads import padded
from avcore.testing.cases.parts import PartCase, objective, restored, tensors_of, train
from avcore.testing.checks import Skipped, check
from avcore.testing.checks.compare import gap
from avcore.testing.toys import make_batch

TOLERANCE = 1e-4
"""Of gradients that should be equal, relative to the largest value."""


@check("part", "trains only its parameters")
def trains_only_its_parameters(case: PartCase) -> None:
    """Nothing of the backbones needs or gets a gradient; whatever else needs one is among the model's groups."""
    for setup, model in case.models():
        where = f"'{case.name}' on {setup.words}"
        with restored(model):
            model.train()
            objective(model, make_batch(model, 3)).backward()
            for name, parameter in model.towers.named_parameters():
                assert not parameter.requires_grad, f"{where}: the frozen {name} needs a gradient after a forward."
                assert parameter.grad is None, f"{where}: the frozen {name} has a gradient."
            known = {id(parameter) for group in parameter_groups(model).values() for _, parameter in group}
            for name, parameter in model.named_parameters():
                if not name.startswith("towers."):
                    assert not parameter.requires_grad or id(parameter) in known, (
                        f"{where}: {name} needs a gradient but is no parameter of a part or the head: no optimiser "
                        f"would train it."
                    )
            training = [name for name, module in model.towers.named_modules() if name and module.training]
            assert not training, f"{where}: after model.train(), the frozen '{training[0]}' is in training mode."


@check("part", "gradients")
def gradients(case: PartCase) -> None:
    """In training every parameter of the part gets a gradient, and it is finite."""
    for setup, model in case.models():
        where = f"'{case.name}' on {setup.words}"
        with restored(model):
            model.train()
            objective(model, make_batch(model, 3)).backward()
            free = copied_tensors(model)  # assembly leaves those that nothing reads out of the training
            wanted = [
                (name, parameter)
                for name, parameter in parameter_groups(model)["parts"]
                if parameter.grad is not None or id(parameter) not in free
            ]
            missed = [name for name, parameter in wanted if parameter.grad is None]
            assert not missed, (
                f"{where}: in training {len(missed)} parameters get no gradient, the first of them {missed[0]}. "
                f"Training "
                f"on many processes would hang: use every parameter in every forward, or do not make it."
            )
            for name, parameter in wanted:
                assert parameter.grad is not None
                assert torch.isfinite(parameter.grad).all(), f"{where}: the gradient of {name} is not finite."


@check("part", "padded clips")
def padded_clips(case: PartCase) -> None:
    """A clip that only fills a batch up (``valid`` False) changes no loss of the part."""
    seen = False
    for setup, model in case.models():
        with restored(model), torch.no_grad():
            for part in case.instances(model):
                if type(part.module).losses is Part.losses:
                    continue
                seen, batch = True, make_batch(model, 3)
                one, other = (part.module.losses(model.features(x)) for x in (batch, padded(batch)))
                for name, term in one.items():
                    assert gap(other[name], term) <= TOLERANCE, (
                        f"'{case.name}' on {setup.words}: the loss '{name}' is {term.item():.6g}, and "
                        f"{other[name].item():.6g} when a clip that is not valid fills the batch up: leave out what "
                        f"features.valid marks as False."
                    )
    if not seen:
        raise Skipped(f"'{case.name}' has no losses.")


@check("part", "sums")
def sums(case: PartCase) -> None:
    """What its layers add up (``Edit.sums``) is read by the part's ``losses``."""
    seen = False
    for setup, model in case.models():
        with restored(model):
            features = model.features(make_batch(model))
            for part in case.instances(model):
                own = {key: one.detach() for key, one in features.sums.items() if key.startswith(f"{part.key}.")}
                if not own:
                    continue
                seen, leaves = True, {key: one.requires_grad_() for key, one in own.items()}
                terms = [torch.zeros((), requires_grad=True)]
                if type(part.module).losses is not Part.losses:
                    read = part.module.losses(replace(features, sums={**features.sums, **leaves}))
                    terms += read.values()
                found = torch.autograd.grad(torch.stack(terms).sum(), list(own.values()), allow_unused=True)
                unread = [key for key, one in zip(own, found, strict=True) if one is None]
                assert not unread, (
                    f"'{case.name}' on {setup.words}: its layers give '{unread[0]}' to be added up, and no loss of the "
                    f"part reads features.sums['{unread[0]}']: read it in 'losses', or give it as a statistic."
                )
    if not seen:
        raise Skipped(f"'{case.name}' adds nothing up.")


@check("part", "frozen weights")
def frozen_weights(case: PartCase) -> None:
    """After two steps of an optimiser the digest and the buffers of the backbones are what they were."""
    for setup, model in case.models():
        where = f"'{case.name}' on {setup.words}"
        with restored(model):
            before = {name: buffer.clone() for name, buffer in model.towers.named_buffers()}
            train(model)
            assert digest(model.towers) == model.backbone_digest, (
                f"{where}: two steps of training change frozen weights. Never write to at.block; train a copy of a "
                f"frozen module with backbone_parts(), of a tensor with backbone_tensors()."
            )
            for name, buffer in model.towers.named_buffers():
                assert torch.equal(before[name], buffer), f"{where}: training changes the frozen buffer {name}."


@check("part", "checkpointing")
def checkpointing(case: PartCase) -> None:
    """Gradients under gradient checkpointing, where the forward runs twice, equal those without."""
    for setup, model in case.models():
        where = f"'{case.name}' on {setup.words}"
        with restored(model):
            model.train()
            batch = make_batch(model, 3)
            plain = _gradients(model, batch, recompute=False)
            try:
                again = _gradients(model, batch, recompute=True)
            except Exception as error:
                raise AssertionError(
                    f"{where}: gradient checkpointing fails with {type(error).__name__}: {_line(error)}. A forward "
                    f"must "
                    f"do the same when it is run again: keep no state between calls."
                ) from error
        for name, gradient in plain.items():
            difference = float((again[name] - gradient).abs().max())
            bound = TOLERANCE * max(1.0, float(gradient.abs().max()))
            assert difference <= bound, (
                f"{where}: under gradient checkpointing the gradient of {name} is another (by {difference:.2g}). A "
                f"forward must do the same when it is run again: draw random numbers from torch's global "
                f"generator, keep no state."
            )


def _gradients(model: AVModel, batch: Batch, *, recompute: bool) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    torch.manual_seed(0)

    def forward() -> tuple[Tensor, ...]:
        features = model.features(batch)
        terms = [*tensors_of(features).values(), *(x for offered in features.offers.values() for x in offered)]
        for part in model.instances:
            if type(part.module).losses is not Part.losses:
                terms += part.module.losses(features).values()
        return tuple(term for term in terms if term.requires_grad)

    out = checkpoint(forward, use_reentrant=False) if recompute else forward()
    torch.stack([term.float().square().mean() for term in out]).sum().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in parameter_groups(model)["parts"]
        if parameter.grad is not None
    }


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
