"""One configuration from many layers, each value remembering the layer it comes from.

Later wins: dataclass defaults, head, task, method, recipe, data set, the method's recipe for demos where the data set
is one, what the files say, ``--config FILE``, dedicated options, ``--set key=value``. Which task, method, recipe and
data set are meant is known from the user's layers alone, so it is found first; their own layers cannot change it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from avcore.config.datasource import Source, choose_source
from avcore.config.leaves import Layer, Leaf, Leaves, flatten, overlay, section
from avcore.config.names import full_names_in, full_names_of
from avcore.config.recipes import Recipe, load_demo_recipe, load_recipe, parse_yaml
from avcore.config.records import RunConfig
from avcore.config.sections import Sections, to_tree
from avcore.config.settings import blamed, coerce
from avcore.errors import AVCoreError, ConfigError, why
from avcore.specs import BackboneSpec, resolve

if TYPE_CHECKING:
    from avcore.registry import Registry

__all__ = ["Resolved", "resolve_config"]

# What picks the layers themselves cannot come from one of them.
_USER_ONLY = ("task", "method", "recipe", "data.dataset", "data.root")
# A name -> the sections and keys that belong to what it names.
_OWNED: Mapping[str, tuple[str, ...]] = {
    "task": ("recipe", "head", "task_options", "data"),
    "method": ("recipe", "prompts", "fusions"),
    "visual.backbone": ("visual",),
    "audio.backbone": ("audio",),
    "text.backbone": ("text",),
    "text_audio.backbone": ("text_audio",),
    "head.name": ("head",),
    "data.dataset": ("data",),
}
# Such a name -> the table that it is looked up in.
_KINDS = {
    "task": "tasks",
    "method": "methods",
    "visual.backbone": "backbones",
    "audio.backbone": "backbones",
    "text.backbone": "backbones",
    "text_audio.backbone": "backbones",
    "head.name": "heads",
    "data.dataset": "datasets",
}
# Keys in such a section that belong to the run, whatever is named.
_SHARED = ("data.workers", "data.cache", "data.cache_features", "data.broken", "data.broken_limit")
# Names that decide which parts there are.
_LISTING = ("method", "prompts", "fusions")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A configuration and how it came about.

    Attributes:
        config: what the run uses.
        origins: dotted key of every leaf of `tree` -> name of its layer.
        recipe: the recipe that was applied, with the published numbers; None if there was none.
    """

    config: RunConfig
    origins: Mapping[str, str]
    recipe: Recipe | None = field(default=None)

    def tree(self) -> dict[str, Any]:
        """The whole configuration as plain values; given back as ``file=``, it makes an equal configuration."""
        return to_tree(self.config)

    def yaml(self) -> str:
        """`tree` as YAML.

        Raises:
            ConfigError: a path in it is no Unicode, which YAML cannot hold; names it.
        """
        try:
            return OmegaConf.to_yaml(OmegaConf.create(self.tree()))
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"A setting is {error.object!a}, which is no UTF-8, and a configuration file cannot hold it: rename "
                "the folder, or name a link to it."
            ) from error


def resolve_config(
    registry: "Registry",
    *,
    method: str | None = None,
    task: str | None = None,
    recipe: str | None = None,
    prompts: str | Sequence[str] | None = None,
    fusions: str | Sequence[str] | None = None,
    streams: str | None = None,
    visual: str | None = None,
    audio: str | None = None,
    text: str | None = None,
    text_audio: str | None = None,
    data: str | Path | None = None,
    file: str | Path | Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    need_data: bool = True,
) -> Resolved:
    """Resolve the configuration of a run.

    Args:
        registry: where names are looked up.
        method, task, recipe, streams, visual, audio, text, text_audio: dedicated options; None means not given.
            ``method="none"`` picks no method, ``audio="shared"`` the visual trunk for sound.
        prompts, fusions: names of parts, ``"a+b"`` or a sequence, a method for all of its own, ``"none"``.
        data: root of the data.
        file: a YAML file, or the tree itself.
        options: further dedicated options, dotted key -> value; None values are skipped.
        sets: ``key=value`` texts, values by the rules of YAML.
        need_data: False when no data will be read (counting parameters, predicting from a checkpoint).

    Raises:
        AVCoreError: anything that is unknown, missing or out of range; names the key and its layer.
    """
    dedicated = {
        "method": method,
        "task": task,
        "recipe": recipe,
        "prompts": prompts,
        "fusions": fusions,
        "streams": streams,
        "visual.backbone": visual,
        "audio.backbone": audio,
        "text.backbone": text,
        "text_audio.backbone": text_audio,
        "data.root": None if data is None else str(data),
        **(options or {}),
    }
    given = [
        *(_option_layer(key, value) for key, value in dedicated.items() if value is not None),
        *(_set_layer(text) for text in sets),
    ]
    if file is not None:
        from_file, recorded = _recorded(_file_layer(file))
        registry = registry.recorded(recorded) if recorded else registry
        given = [_without_demo(registry, from_file, given), *given]
    user_layers = _without_replaced(registry, given)
    user: Leaves = {}
    for leaves in user_layers:
        user = overlay(user, leaves)

    chosen: Leaves = {}
    task_key = _task(registry, user)
    chosen["task"] = Leaf(task_key, user["task"].layer)
    method_key = _method(registry, user)
    if "method" in user:
        chosen["method"] = Leaf(method_key, user["method"].layer)
    used = _recipe(registry, user, method_key, task_key)
    source = choose_source(registry, task_key, user, need_data=need_data)

    layers = [_task_layer(registry, task_key)]
    if method_key is not None:
        spec = registry.methods[method_key]
        parts = {
            "prompts": [registry.own_part(method_key, part, "prompts") for part in spec.prompts],
            "fusions": [registry.own_part(method_key, part, "fusions") for part in spec.fusions],
        }
        home = registry.methods.origin(method_key)
        layers.append(_plugin_layer(f"method {method_key}", spec.defaults, home))
        layers[-1] = {**_leaves(parts, Layer(f"method {method_key}", home=home, parts_only=True)), **layers[-1]}
        if used is not None:
            layers.append(_plugin_layer(f"recipe {used.name}", used.settings, home))
    if source.spec is not None:
        layers.append(_plugin_layer(f"dataset {source.leaves['data.dataset'].value}", source.spec.defaults))
        protocols = [leaves["protocol"].value for leaves in (*layers, user) if "protocol" in leaves]
        if protocols[-1:] == ["paper"]:
            layers.append(
                _plugin_layer(f"dataset {source.leaves['data.dataset'].value}, paper", source.spec.as_published)
            )
        if method_key is not None and source.spec.demo:
            layers.append(_demo_layer(registry, method_key, task_key))
        layers.append(_files_layer(source, user))
    merged: Leaves = dict(source.leaves)
    for leaves in _without_other_sound(registry, _without_replaced(registry, [*layers, *user_layers])):
        merged = overlay(merged, {key: leaf for key, leaf in leaves.items() if not _keeps(merged, key, leaf)})
    merged = overlay(merged, chosen)
    merged = overlay(_head_layer(registry, merged, task_key), merged)

    config = Sections(registry, merged, task_key).run_config()
    config = replace(config, full_names=full_names_of(config, registry))
    return Resolved(config=config, origins=_origins(to_tree(config), merged), recipe=used)


# --------------------------------------------------------------------------------------------------------------------
# Layers


def _leaves(tree: Mapping[str, Any], layer: Layer) -> Leaves:
    return {key: Leaf(value, layer) for key, value in flatten(tree).items()}


def _file_layer(file: str | Path | Mapping[str, Any]) -> Leaves:
    if isinstance(file, Mapping):
        return _leaves(file, Layer("given tree", user=True))
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = why(error) if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"The configuration file '{file}' cannot be read: {reason}.") from None
    return _leaves(parse_yaml(text, f"The configuration file '{file}'"), Layer(f"file {file}", user=True))


def _option_layer(key: str, value: Any) -> Leaves:
    short = {"data.root": "data", "fusions": "fusion"}.get(key, key.removesuffix(".backbone").rpartition(".")[2])
    if key == "audio.backbone" and value == "shared":
        value = None
    if isinstance(value, tuple):
        value = list(value)
    return {key: Leaf(value, Layer(f"option {short}", user=True))}


def _set_layer(text: str) -> Leaves:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write KEY=VALUE, such as --set optim.lr=1e-3.")
    if _loses_some(value):  # a person who writes one value means all of it
        given: Any = value.strip()
    else:
        given = parse_yaml(f"value: {value}", f"The value of --set {text}")["value"]
    return _leaves({key.strip(): given}, Layer(f"--set {text}", user=True))


def _loses_some(text: str) -> bool:
    """Whether YAML reads less than the whole text: `` #...`` is a comment to it, and what is no Unicode an error."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError:
        return True
    except yaml.YAMLError:
        return False  # refused where it is read
    return bool(text.strip() if node is None else text[node.end_mark.index :].strip())


def _recorded(file: Leaves) -> tuple[Leaves, dict[str, tuple[str, ...]]]:
    """A file's leaves without the full names that a run wrote into it, and these."""
    recorded = {key: leaf for key, leaf in section(file, "full_names").items() if leaf.value is not None}
    rest = {key: leaf for key, leaf in file.items() if key.partition(".")[0] != "full_names"}
    if not recorded:
        return rest, {}
    source = next(iter(recorded.values())).layer.name
    for key in ("prompts", "fusions"):
        # As resolved, methods have become their parts.
        if key in rest:
            rest[key] = Leaf(rest[key].value, replace(rest[key].layer, parts_only=True))
    return rest, full_names_in({key: leaf.value for key, leaf in recorded.items()}, source)


def _plugin_layer(name: str, tree: Mapping[str, Any], home: str = "") -> Leaves:
    leaves = _leaves(tree, Layer(name, home=home))
    for key in _USER_ONLY:
        if key in leaves:
            raise ConfigError(f"The settings of {name} may not contain '{key}': only the user chooses it.")
    return leaves


def _demo_layer(registry: "Registry", method: str, task: str) -> Leaves:
    recipe = load_demo_recipe(registry, method, task)
    if recipe is None:
        return {}
    return _plugin_layer(f"recipe {recipe.name}", recipe.settings, registry.methods.origin(method))


def _files_layer(source: Source, user: Leaves) -> Leaves:
    """What the files of a data set say themselves; nothing where its root is not there yet."""
    leaf = user.get("data.root", source.leaves["data.root"])
    root = Path(leaf.value).expanduser() if isinstance(leaf.value, str | Path) else None
    if source.spec is None or not source.spec.reads or root is None or not root.is_dir():
        return {}
    return _plugin_layer(f"files in {root}", resolve(source.spec.reads)(root))


def _task_layer(registry: "Registry", task: str) -> Leaves:
    spec = registry.tasks[task]
    return overlay({"head.name": Leaf(spec.head, Layer(f"task {task}"))}, _plugin_layer(f"task {task}", spec.defaults))


def _head_layer(registry: "Registry", merged: Leaves, task: str) -> Leaves:
    """What the chosen head brings; everything else goes before it."""
    head = Sections(registry, merged, task).head()
    brought = registry.heads[head.name].brings(head.settings)
    leaves = _plugin_layer(f"head {head.name}", brought)
    if own := [key for key in leaves if key.partition(".")[0] == "head"]:
        raise ConfigError(
            f"The defaults of head '{head.name}' may not contain '{own[0]}': they follow from its settings."
        )
    return {key: Leaf(leaf.value, replace(leaf.layer, wishes=True)) for key, leaf in leaves.items()}


def _keeps(merged: Leaves, key: str, leaf: Leaf) -> bool:
    """Whether an explicit null of the user leaves what was found (``data.dataset: null`` means: find it)."""
    return key in ("data.dataset", "data.root") and leaf.value is None and key in merged


def _without_replaced(registry: "Registry", layers: Sequence[Leaves]) -> list[Leaves]:
    """Where a later layer names another task, method, backbone, ..., take out what belonged to the earlier one.

    Settings of parts stay, for the part may still be listed; the layer is then no longer to blame for those that
    are not.
    """
    for name in (*_OWNED, "prompts", "fusions"):
        values = [leaves[name].value for leaves in layers if name in leaves]
        layers = [
            leaves
            if name not in leaves or _is_same(registry, name, leaves[name].value, values[-1])
            else _released(leaves, name)
            for leaves in layers
        ]
    return list(layers)


def _is_same(registry: "Registry", key: str, before: Any, last: Any) -> bool:
    """Whether two layers name the same thing, be it that one does so with its distribution."""
    kind = _KINDS.get(key)
    if before == last or kind is None or not isinstance(before, str) or not isinstance(last, str):
        return bool(before == last)
    table = registry.tables[kind]
    if not table.offers(last):
        return False
    if not table.offers(before):
        # Of several distributions, the one that the later layer chooses.
        return ":" not in before and before == last.rpartition(":")[2]
    return table.key(before) == table.key(last)


def _without_other_sound(registry: "Registry", layers: Sequence[Leaves]) -> list[Leaves]:
    """Where a later layer names a visual backbone of another family, take out how sound was fed to the earlier one.

    Sound shares the visual trunk where it has none of its own, and the sizes of its pictures go with that.
    """
    names = [leaves["visual.backbone"].value for leaves in layers if "visual.backbone" in leaves]
    families = {name: _family(registry, name) for name in names}

    def fits(leaves: Leaves) -> bool:
        named, own = leaves.get("visual.backbone"), leaves.get("audio.backbone")
        if named is None or (own is not None and own.value is not None):
            return True
        return families.get(named.value) is families.get(names[-1])

    return [
        leaves if fits(leaves) else {key: leaf for key, leaf in leaves.items() if not key.startswith("audio.")}
        for leaves in layers
    ]


def _family(registry: "Registry", name: Any) -> BackboneSpec | None:
    """The family of a backbone; None for a name that is unknown, which is refused when the stream is made."""
    try:
        return registry.backbones.find(name)[0] if isinstance(name, str) else None
    except AVCoreError:
        return None


def _without_demo(registry: "Registry", file: Leaves, later: Sequence[Leaves]) -> Leaves:
    """Take the demo that a file names out of it where a later layer names a root: files, and so their own reader."""
    roots = [leaves["data.root"].value for leaves in later if "data.root" in leaves]
    name = file.get("data.dataset")
    if name is None or name.value is None or not roots or roots[-1] is None:
        return file
    if any("data.dataset" in leaves for leaves in later):
        return file
    if not registry.datasets[coerce(str, name, "data.dataset")].demo:
        return file
    return {key: leaf for key, leaf in _released(file, "data.dataset").items() if key != "data.dataset"}


def _released(leaves: Leaves, name: str) -> Leaves:
    owned = _OWNED.get(name, ())
    kept = {
        key: leaf
        for key, leaf in leaves.items()
        if key == name or key in _SHARED or not any(key == own or key.startswith(f"{own}.") for own in owned)
    }
    if name in _LISTING:
        for key, leaf in kept.items():
            if key.startswith("parts."):
                kept[key] = Leaf(leaf.value, Layer(leaf.layer.name))
    return kept


# --------------------------------------------------------------------------------------------------------------------
# The names that decide which layers there are


def _task(registry: "Registry", user: Leaves) -> str:
    if "task" not in user:
        raise ConfigError(f"No task: give --task NAME. Available: {', '.join(registry.tasks.names()) or 'none'}.")
    name = coerce(str, user["task"], "task")
    with blamed("task", user["task"]):
        return registry.tasks.key(name)


def _method(registry: "Registry", user: Leaves) -> str | None:
    if "method" not in user:
        if "prompts" in user or "fusions" in user:
            return None
        raise ConfigError(
            f"Nothing to train: give --plugin NAME, or --prompts and --fusion, or --plugin none for the head alone. "
            f"Methods: {', '.join(registry.methods.names()) or 'none installed'}."
        )
    name = coerce(str | None, user["method"], "method")
    if name in (None, "none"):
        return None
    with blamed("method", user["method"]):
        return registry.methods.key(name)


def _recipe(registry: "Registry", user: Leaves, method: str | None, task: str) -> Recipe | None:
    variant = coerce(str | None, user["recipe"], "recipe") if "recipe" in user else None
    if method is None:
        if variant is not None:
            raise ConfigError(f"Recipe '{variant}' needs a method: give --plugin NAME too.")
        return None
    return load_recipe(registry, method, task, variant)


def _origins(tree: Mapping[str, Any], leaves: Leaves) -> dict[str, str]:
    found = {}
    for key in flatten(tree):
        if key.partition(".")[0] == "full_names":
            found[key] = "installed plugins"
            continue
        inside = [leaf for other, leaf in leaves.items() if other == key or other.startswith(f"{key}.")]
        steps = key.split(".")
        above = [leaves[".".join(steps[:n])] for n in range(1, len(steps)) if ".".join(steps[:n]) in leaves]
        found[key] = next((leaf.layer.name for leaf in (*inside, *above)), "default")
    return found
