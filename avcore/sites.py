"""What classes of plugins do at their sites: whether avcore would call it, and whether it keeps to the rules there."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from avcore.discovery.signatures import blamed, check_overrides, functions_of
from avcore.errors import PluginError
from avcore.injection import BlockView, Fusion, FusionLayer, PairView, Part, Prompt, PromptLayer
from avcore.specs import TEXTS
from avcore.streams import PartInstance
from avcore.tasks import Features, StreamFeatures

__all__ = ["check_sites", "watched"]

ALIKE, LIKE = 0.8, 0.6
"""How near a name has to be to that of a site: where there are other sites, and where there is none."""


def check_sites(instance: PartInstance) -> None:
    """Refuse a part of which avcore would call nothing, or call it otherwise than it is written.

    Raises:
        PluginError: a function has another signature than its site, or a name that is nearly a site's; a class
            overrides nothing.
    """
    part = instance.module
    whole, layer = (Fusion, FusionLayer) if isinstance(part, Fusion) else (Prompt, PromptLayer)
    kinds: list[tuple[type, type, type]] = [(type(part), whole, layer)]
    kinds += [(one, layer, whole) for one in dict.fromkeys(type(layer) for layer in part.layers.values())]
    of = f"part '{instance.name}'"
    for thing, base, other in kinds:
        check_overrides(thing, base, plugin=instance.plugin, of=of)
        _check_names(thing, base, functions_of(other), instance.plugin, of)


def _check_names(thing: type, base: type, elsewhere: Mapping[str, Any], plugin: str, of: str) -> None:
    sites = functions_of(base)
    own = {
        name: function
        for one in thing.__mro__
        if not issubclass(base, one)
        for name, function in vars(one).items()
        if not name.startswith("_") and inspect.isfunction(function)
    }
    strangers = {name: function for name, function in own.items() if name not in sites}
    acts = any(getattr(thing, name) is not function for name, function in sites.items())
    for name, function in strangers.items():
        if name in elsewhere and _as_many(function, elsewhere[name]):
            raise PluginError(
                f"Plugin {plugin}: '{name}' of {of} stands in {thing.__name__}, a {base.__name__}, where nobody calls "
                f"it: it is a site of {'its layers' if issubclass(base, Part) else 'the part'}. Tell its author."
            )
        near = difflib.get_close_matches(name, sites, n=1, cutoff=ALIKE if acts else LIKE)
        if near and (not acts or _as_many(function, sites[near[0]])):
            raise PluginError(
                f"Plugin {plugin}: '{name}' of {of} is no site of a {base.__name__}; did you mean '{near[0]}'? "
                f"{'' if acts else f'{thing.__name__} overrides no site. '}"
                f"A function of one's own has a name of its own, or one that begins with '_'. Tell its author."
            )
    if not acts:
        raise PluginError(
            f"Plugin {plugin}: {thing.__name__} of {of} overrides no site, so nobody calls it: a {base.__name__} has "
            f"{', '.join(sites)}. Tell its author."
        )


def _as_many(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    return len(inspect.signature(one).parameters) == len(inspect.signature(other).parameters)


# ------------------------------------------------------------------------------------------------ while they are called


@contextmanager
def watched(instances: Sequence[PartInstance]) -> Iterator[None]:
    """While this lasts, what parts do at their sites is looked at.

    Raises:
        PluginError: a site failed, or wrote into a tensor that it was given; names plugin, part and site.
    """
    put: list[tuple[Any, str]] = []
    for instance in instances:
        part = instance.module
        base = Fusion if isinstance(part, Fusion) else Prompt
        layer = FusionLayer if base is Fusion else PromptLayer
        for thing, kind in [(part, base), *((one, layer) for one in part.layers.values())]:
            for site, function in functions_of(kind).items():
                if getattr(type(thing), site) is not function:
                    # An attribute of the instance, which goes before that of its class.
                    setattr(thing, site, _watching(getattr(thing, site), site, instance))
                    put.append((thing, site))
    try:
        yield
    finally:
        for thing, site in put:
            delattr(thing, site)


def _watching(function: Callable[..., Any], site: str, instance: PartInstance) -> Callable[..., Any]:
    of = f"part '{instance.name}'"
    if instance.streams[0] in TEXTS and site in ("finish", "losses"):
        of += f" on text, of which features hold nothing (parts.{instance.name}.streams={instance.streams[0]})"

    def call(*given: Any) -> Any:
        tensors = list(_tensors(given))
        before = [(one._version, None if one.is_meta else one.detach().clone()) for one in tensors]
        with blamed(instance.plugin, site, of):
            made = function(*given)
        for one, (version, kept) in zip(tensors, before, strict=True):
            if one._version != version or not (kept is None or torch.equal(one, kept)):
                raise PluginError(
                    f"Plugin {instance.plugin}: '{site}' of {of} writes into a tensor that it is given, of "
                    f"{tuple(one.shape)}, in place. All parts see the same tokens, so a site returns what it asks for "
                    f"and changes nothing: x + y instead of x += y, x.clone() first where that does not do. Tell its "
                    f"author."
                )
        return made

    return call


def _tensors(given: Iterable[Any]) -> Iterator[Tensor]:
    for one in given:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, BlockView):
            yield from _tensors([one.tokens, one.carried])
        elif isinstance(one, PairView):
            yield from _tensors([one.visual, one.audio])
        elif isinstance(one, StreamFeatures):
            yield from (one.pooled, one.tokens, one.raw_tokens, *one.maps)
        elif isinstance(one, Features):
            yield from _tensors(one.streams.values())
            yield from (tensor for many in one.offers.values() for tensor in many)
            yield from (*one.sums.values(), *one.statistics.values(), *one.inputs.values())
