"""Recipes: the published settings of a method on a task, with the published numbers, as YAML inside its package.

``recipes/<task>.yaml`` is the plain recipe, ``recipes/<task>.<variant>.yaml`` a variant::

    summary: one line
    settings: {optim: {lr: 3.0e-4}, parts: {copl.rows: {length: 10}}}
    published: [{metric: M_J, dataset: NAME, value: 84.7, source: "Table 3"}]

``recipes/<task>.demo.yaml`` is nobody's choice: it holds what the method's parts need on a demo of the task, lies above
the settings of any data set that is a demo, and publishes nothing.
"""

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from avcore.errors import ConfigError, PluginError, did_you_mean
from avcore.specs import MethodSpec

if TYPE_CHECKING:
    from avcore.registry import Registry

__all__ = ["Recipe", "demo_tasks_of", "load_demo_recipe", "load_recipe", "parse_yaml", "recipes_of"]

_DEMO = "demo"
_KEYS = ("summary", "settings", "published")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe as read.

    Attributes:
        method, task: names; ``variant`` is None for the plain recipe.
        settings: a configuration tree.
        published: one mapping for each published number: at least ``metric``, ``value``, ``source``; a score also has
            the ``dataset`` that it is of, without which no run shows it.
    """

    method: str
    task: str
    variant: str | None = None
    summary: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    published: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """``copl/avs`` or ``copl/avs.variant``."""
        return f"{self.method}/{self.task}" + (f".{self.variant}" if self.variant else "")


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The mapping in a YAML text; raises AVCoreError naming ``source`` when it is none."""
    try:
        content = OmegaConf.to_container(OmegaConf.create(text), resolve=True) if text.strip() else {}
    except YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}.") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source} cannot be read: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{source} holds a {type(content).__name__}; it must hold keys and values.")
    return {str(key): value for key, value in content.items()}


def _folder(spec: MethodSpec) -> Traversable | None:
    if not spec.recipes:
        return None
    try:
        folder = importlib.resources.files(spec.recipes) / "recipes"
    except ModuleNotFoundError:
        raise PluginError(f"Method '{spec.name}' keeps its recipes in '{spec.recipes}', which is no package.") from None
    return folder if folder.is_dir() else None


def recipes_of(spec: MethodSpec) -> list[tuple[str, str | None]]:
    """(task, variant) of every recipe that a user may choose; the variant of a plain recipe is None."""
    return [(task, variant) for task, variant in _files(spec) if variant != _DEMO]


def demo_tasks_of(spec: MethodSpec) -> list[str]:
    """The tasks for whose demos a method ships a recipe."""
    return [task for task, variant in _files(spec) if variant == _DEMO]


def _files(spec: MethodSpec) -> list[tuple[str, str | None]]:
    folder = _folder(spec)
    if folder is None:
        return []
    stems = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return [(task, variant or None) for task, _, variant in (stem.partition(".") for stem in stems)]


def load_recipe(registry: "Registry", method: str, task: str, variant: str | None = None) -> Recipe | None:
    """Read the recipe of a method on a task; None when the plain one is asked for and there is none.

    Raises:
        ConfigError: the variant does not exist, or the file is malformed.
    """
    spec, task = registry.methods[method], registry.tasks[task].name
    variants = [known for served, known in recipes_of(spec) if served == task]
    if variant in variants:
        return _read(spec, task, variant)
    if variant is None:
        return None
    if variant == _DEMO:
        raise ConfigError(f"Recipe '{_DEMO}' is used by itself on data sets that are a demo: leave out --recipe.")
    named = [known for known in variants if known is not None]
    raise ConfigError(
        f"Method '{method}' has no recipe '{variant}' for task '{task}'.{did_you_mean(variant, named)} "
        f"Variants: {', '.join(named) or 'none'}."
    )


def load_demo_recipe(registry: "Registry", method: str, task: str) -> Recipe | None:
    """Read what a method sets on the demos of a task; None when it sets nothing.

    Raises:
        ConfigError: the file is malformed, or publishes numbers.
    """
    spec, task = registry.methods[method], registry.tasks[task].name
    if task not in demo_tasks_of(spec):
        return None
    recipe = _read(spec, task, _DEMO)
    if recipe.published:
        raise ConfigError(f"Recipe {recipe.name}: nothing is published on a demo; leave out 'published'.")
    return recipe


def _read(spec: MethodSpec, task: str, variant: str | None) -> Recipe:
    folder = _folder(spec)
    assert folder is not None
    file = f"{task}.{variant}.yaml" if variant else f"{task}.yaml"
    source = f"Recipe {spec.recipes}/recipes/{file}"
    content = parse_yaml((folder / file).read_text(encoding="utf-8"), source)
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"{source}: unknown key '{key}'.{did_you_mean(key, _KEYS)} Keys: {', '.join(_KEYS)}.")
    published = content.get("published") or []
    if not isinstance(published, list) or not all(isinstance(row, dict) for row in published):
        raise ConfigError(f"{source}: 'published' must be a list of mappings.")
    for row in published:
        if missing := [key for key in ("metric", "value", "source") if key not in row]:
            raise ConfigError(f"{source}: an entry of 'published' lacks {', '.join(missing)}.")
    settings = content.get("settings") or {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{source}: 'settings' must be a mapping.")
    return Recipe(
        method=spec.name,
        task=task,
        variant=variant,
        summary=str(content.get("summary") or ""),
        settings=settings,
        published=tuple(published),
    )
