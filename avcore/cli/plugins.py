"""``avcore plugins``: what is installed, what each thing is, and what is wrong.

Imports no torch, but for ``show`` of a backbone or a method, whose blocks are laid out without weights.
"""

import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from avcore.cli.check import check
from avcore.cli.matrix import matrix
from avcore.cli.new import new
from avcore.cli.usage import UsageGroup
from avcore.config import (
    StreamConfig,
    demo_tasks_of,
    describe,
    load_demo_recipe,
    load_recipe,
    plain,
    recipes_of,
    resolve_config,
)
from avcore.config.leaves import flatten
from avcore.discovery import LoadedPlugin, PluginPolicy, load_plugins
from avcore.errors import AVCoreError, ConfigError, did_you_mean
from avcore.registry import Registry, load_registry
from avcore.specs import STREAMS, BackboneSpec, DatasetSpec, FusionSpec, HeadSpec, MethodSpec, PartSpec, Spec, TaskSpec

__all__ = ["plugins"]

_NOUNS = {"fusions": "fusion", "datasets": "data set"}


@click.group(cls=UsageGroup)
def plugins() -> None:
    """List, show, combine and check what is installed; start a new one."""


def _json_option(command: Any) -> Any:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _offers(plugin: LoadedPlugin) -> dict[str, list[str]]:
    return {kind: [spec.name for spec in specs] for kind, specs in plugin.specs.items() if specs}


@plugins.command("list")
@_json_option
def list_(as_json: bool) -> None:
    """List the installed plugins with version, state and what they offer.

    \b
    Examples:
      avcore plugins list
      AVCORE_PLUGINS=avcore-timm,avcore-copl avcore plugins list       import these alone
    """  # noqa: D301 - click's mark for unwrapped lines
    loaded = load_registry().plugins
    if as_json:
        keys = ("distribution", "version", "state", "error", "heavy")
        rows = [{**{key: getattr(one, key) for key in keys}, "offers": _offers(one)} for one in loaded]
        click.echo(json.dumps(rows, indent=2))
        return
    head = ("DISTRIBUTION", "VERSION", "STATE", "OFFERS")
    table = [head, *((one.distribution, one.version, one.state, _summary(one)) for one in loaded)]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    for row in table:
        click.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)), row[3]]))
    if not any(one.entry_point for one in loaded):
        click.echo("No plugins are installed. The first-party ones: pip install 'avcore[all]'")


def _summary(plugin: LoadedPlugin) -> str:
    if plugin.error:
        return plugin.error
    offers = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in _offers(plugin).items())
    return f"{offers} (slow: imports {', '.join(plugin.heavy)})" if plugin.heavy else offers


@plugins.command()
@click.argument("name")
@click.option("--audio", metavar="NAME", help="With a backbone: the one that listens beside it.")
@_json_option
def show(name: str, audio: str | None, as_json: bool) -> None:
    """Show everything called NAME: a distribution, method, prompt, fusion, backbone, head, task or data set.

    A backbone is shown with its stages, a recipe with the plan: which blocks of both streams run together.

    \b
    Examples:
      avcore plugins show copl
      avcore plugins show swinv2_large_window12_192 --audio htsat
    """  # noqa: D301 - click's mark for unwrapped lines
    registry = load_registry()
    cards = [*_distribution_cards(registry, name), *_spec_cards(registry, name), *_model_cards(registry, name, audio)]
    if not cards:
        known = {one.distribution for one in registry.plugins}
        known.update(name for table in registry.tables.values() for name in table.names())
        known.update(preset for spec in registry.backbones for preset in spec.presets)
        raise ConfigError(
            f"Nothing installed is called '{name}'.{did_you_mean(name, known)} See 'avcore plugins list'."
        )
    if as_json:
        click.echo(json.dumps(cards, indent=2))
        return
    for number, card in enumerate(cards):
        click.echo("\n" if number else "", nl=False)
        _print_card(card)


def _distribution_cards(registry: Registry, name: str) -> Iterator[dict[str, Any]]:
    for one in registry.plugins:
        if one.distribution == name:
            yield {"kind": "distribution", "name": name, **_record(one), "offers": _offers(one)}


def _record(plugin: LoadedPlugin) -> dict[str, Any]:
    keys = ("version", "state", "error", "entry_point", "module", "origin", "import_ms", "heavy")
    record = {key: plain(getattr(plugin, key)) for key in keys}
    return {**record, "import_ms": round(plugin.import_ms, 1)}


def _spec_cards(registry: Registry, name: str) -> Iterator[dict[str, Any]]:
    for kind, table in registry.tables.items():
        if name in table:
            yield _card(registry, _NOUNS.get(kind, kind.removesuffix("s")), table.origin(name), table[name])


def _model_cards(registry: Registry, name: str, audio: str | None) -> Iterator[dict[str, Any]]:
    """A member of a family of backbones, with its stages."""
    if name in registry.backbones and not any(name in spec.presets for spec in registry.backbones):
        return
    if not any(_is_member(spec, name.rpartition(":")[2]) for spec in registry.backbones):
        return
    spec, preset = registry.backbones.find(name)
    card = _card(registry, "backbone", registry.backbones.origin(spec.name), spec)
    if not set(spec.streams) & set(STREAMS):
        # Text is paired with nothing.
        yield {**card, "name": name, "family": spec.name, "preset": plain(preset or {})}
        return
    listens, _ = (spec, None) if audio is None else registry.backbones.find(audio)
    visual = StreamConfig(backbone=name, settings=spec.config())
    plan = _plan(registry, visual, StreamConfig(backbone=audio, settings=listens.config()), "both")
    if audio is None and "error" in plan:
        # It serves one stream only.
        tried = [_plan(registry, visual, visual, stream) for stream in STREAMS]
        plan = next((one for one in tried if "error" not in one), plan)
    yield {**card, "name": name, "family": spec.name, "preset": plain(preset or {}), "plan": plan}


def _is_member(spec: BackboneSpec, name: str) -> bool:
    return name in spec.presets or any(fnmatch.fnmatchcase(name, pattern) for pattern in spec.patterns)


def _plan(
    registry: Registry,
    visual: StreamConfig,
    audio: StreamConfig,
    streams: str,
    pairing: str | Sequence[tuple[int, int]] = "even",
) -> dict[str, Any]:
    from avcore.assemble import streams_of
    from avcore.report.plan import plan_record

    try:
        found = streams_of(visual, audio, registry, streams=streams, pairing=pairing)
        return plan_record(found.layouts, found.plan)
    except AVCoreError as error:
        return {"error": str(error)}


def _recipe_plan(
    registry: Registry, method: str, task: str, variant: str | None, made: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The plan of a recipe; ``made`` has those of recipes before, many of which choose the same backbones."""
    try:
        config = resolve_config(registry, method=method, task=task, recipe=variant, need_data=False).config
    except AVCoreError as error:
        return {"error": str(error)}
    chosen = (config.visual, config.audio, config.streams, config.plan.pairing)
    if repr(chosen) not in made:
        made[repr(chosen)] = _plan(registry, *chosen)
    return made[repr(chosen)]


def _card(registry: Registry, kind: str, origin: str, spec: Spec) -> dict[str, Any]:
    card: dict[str, Any] = {"kind": kind, "name": spec.name, "origin": origin}
    card |= {"summary": spec.summary, "paper": spec.paper, "build": spec.build}
    if isinstance(spec, BackboneSpec):
        card |= {"presets": sorted(spec.presets), "patterns": list(spec.patterns)}
    if isinstance(spec, PartSpec):
        card |= {"needs": sorted(spec.requires(spec.config())), "finishes": sorted(spec.finishes)}
        card |= {"as_own": list(spec.as_own)} if isinstance(spec, FusionSpec) else {}
    if isinstance(spec, TaskSpec):
        heads = sorted(head.name for head in registry.heads if head.takes(spec))
        card |= {
            "predicts": spec.kind,
            "head": spec.head,
            "heads": heads,
            "aliases": list(spec.aliases),
            "defaults": plain(spec.defaults),
            "words": spec.words,
        }
    if isinstance(spec, HeadSpec):
        settings = spec.config()
        card |= {"serves": list(spec.serves), "encoders": list(spec.calls(settings)), "untrained": spec.untrained}
        card |= {"defaults": plain(spec.brings(settings))}
    if isinstance(spec, DatasetSpec):
        card |= {"tasks": list(spec.tasks), "default_for": list(spec.default_for), "demo": spec.demo}
        card |= {"defaults": plain(spec.defaults), "as_published": plain(spec.as_published)}
    if isinstance(spec, MethodSpec):
        card |= {"prompts": list(spec.prompts), "fusions": list(spec.fusions), "defaults": plain(spec.defaults)}
        card["recipes"] = _recipes(registry, spec)
    else:
        card["settings"] = [asdict(setting) for setting in describe(spec.config)]
    return card


def _recipes(registry: Registry, spec: MethodSpec) -> list[dict[str, Any]]:
    """The recipes of a method; those for tasks that are not installed are listed without content."""
    rows = []
    plans: dict[str, dict[str, Any]] = {}
    for task, variant in recipes_of(spec):
        row: dict[str, Any] = {"task": task, "variant": variant}
        recipe = (
            load_recipe(registry, registry.methods.key(spec.name), task, variant) if task in registry.tasks else None
        )
        if recipe is not None:
            row["plan"] = _recipe_plan(registry, spec.name, task, variant, plans)
            row |= {"summary": recipe.summary, "settings": plain(recipe.settings), "published": plain(recipe.published)}
        rows.append(row)
    for task in demo_tasks_of(spec):
        on_demo = load_demo_recipe(registry, registry.methods.key(spec.name), task) if task in registry.tasks else None
        content = {} if on_demo is None else {"summary": on_demo.summary, "settings": plain(on_demo.settings)}
        rows.append({"task": task, "variant": "demo", **content})
    return rows


def _print_card(card: Mapping[str, Any]) -> None:
    click.echo(f"{card['kind']} {card['name']}")
    for key, value in card.items():
        if key in ("kind", "name", "settings", "recipes", "plan") or value in ("", [], {}, None):
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        if isinstance(value, dict):
            text = "; ".join(
                f"{name}: {', '.join(map(str, item)) if isinstance(item, list) else item}"
                for name, item in flatten(value).items()
            )
        click.echo(f"  {key:<12} {text}")
    for line in _plan_lines(card):
        click.echo(f"  {'plan':<12} {line}")
    if card.get("settings"):
        click.echo("  settings")
        for setting in card["settings"]:
            click.echo(f"    {setting['name']} = {json.dumps(setting['default'])}  ({setting['type']})")
            if setting["help"]:
                click.echo(f"        {setting['help']}")
    for recipe in card.get("recipes", ()):
        variant = f" --recipe {recipe['variant']}" if recipe["variant"] else ""
        variant = " on a demo" if recipe["variant"] == "demo" else variant
        click.echo(f"  recipe       --task {recipe['task']}{variant}: {recipe.get('summary', 'task not installed')}")
        for line in _plan_lines(recipe):
            click.echo(f"    plan       {line}")
        for row in recipe.get("published", ()):
            click.echo(f"    published  {row['metric']} {row['value']}  ({row['source']})")


def _plan_lines(shown: Mapping[str, Any]) -> list[str]:
    if "plan" not in shown:
        return []
    from avcore.report.plan import render_plan

    return [shown["plan"]["error"]] if "error" in shown["plan"] else render_plan(shown["plan"])


@plugins.command()
@_json_option
def doctor(as_json: bool) -> None:
    """Check every installed plugin: version, origin, import time, and the traceback of one that is broken.

    Leaves with exit code 1 if a plugin is broken.

    \b
    Examples:
      avcore plugins doctor
      avcore --block DIST plugins doctor       without importing that one
    """  # noqa: D301 - click's mark for unwrapped lines
    policy = PluginPolicy.from_environment()
    loaded = load_plugins(PluginPolicy(allow=policy.allow, block=policy.block, strict=False))
    if as_json:
        rows = [{"distribution": one.distribution, **_record(one), "traceback": one.traceback} for one in loaded]
        click.echo(json.dumps(rows, indent=2))
    else:
        for one in loaded:
            _print_health(one)
        states = [one.state for one in loaded]
        click.echo(", ".join(f"{states.count(state)} {state}" for state in ("ok", "broken", "blocked")))
    if any(one.state == "broken" for one in loaded):
        raise click.exceptions.Exit(1)


def _print_health(plugin: LoadedPlugin) -> None:
    click.echo(f"{plugin.distribution} {plugin.version}: {plugin.state}")
    timed = "not imported" if plugin.state == "blocked" else f"imported in {plugin.import_ms:.0f} ms"
    click.echo(f"  {plugin.entry_point} = {plugin.module}, from {plugin.origin}, {timed}")
    if plugin.heavy:
        click.echo(f"  its light module imports {', '.join(plugin.heavy)}: that makes every command slow to start")
    if plugin.error:
        click.echo(f"  {plugin.error}")
    for line in plugin.traceback.splitlines():
        click.echo(f"    {line}")


for command in (matrix, new, check):
    plugins.add_command(command)
