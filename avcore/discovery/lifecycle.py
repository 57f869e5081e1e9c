"""The lifecycle hooks of all sound plugins, called while a run goes on."""

import logging
from collections.abc import Iterable
from typing import Any

from avcore.discovery.declarations import hook_manager
from avcore.discovery.records import LoadedPlugin, PluginPolicy, one_line
from avcore.errors import PluginError, Preempted

__all__ = ["Lifecycle"]

_logger = logging.getLogger(__name__)


class Lifecycle:
    """Calls the lifecycle hooks of all sound plugins during one run.

    A hook that raises is switched off for that plugin until the end of the run, with one warning in the log; the run
    and the other plugins go on.

    Args:
        plugins: all of them.
        strict: a hook that raises ends the run; by default as ``AVCORE_STRICT_PLUGINS`` says.
    """

    def __init__(self, plugins: Iterable[LoadedPlugin], *, strict: bool | None = None) -> None:
        self._strict = PluginPolicy.from_environment().strict if strict is None else strict
        self._manager = hook_manager()
        self._off: set[tuple[str, str]] = set()
        for plugin in plugins:
            if plugin.state == "ok" and plugin.plugin is not None:
                self._manager.register(plugin.plugin, name=plugin.distribution)

    def call(self, name: str, **arguments: Any) -> None:
        """Call hook ``name`` (``avcore_run_started``, ...) of every plugin that has it and is not switched off.

        Raises:
            AVCoreError: a hook failed, and failures are errors (``strict``).
        """
        for impl in reversed(getattr(self._manager.hook, name).get_hookimpls()):
            if (impl.plugin_name, name) in self._off:
                continue
            wanted = {key: arguments[key] for key in impl.argnames}
            try:
                impl.function(**wanted)
            except (KeyboardInterrupt, Preempted):
                # A signal came just then.
                raise
            except BaseException as error:
                failure = f"Plugin {impl.plugin_name}: its hook {name} failed"
                if self._strict:
                    raise PluginError(f"{failure}: {one_line(error)}") from error
                self._off.add((impl.plugin_name, name))
                _logger.warning("%s and is off for the rest of the run: %s", failure, one_line(error))
