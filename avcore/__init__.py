"""avcore: parameter-efficient audio-visual learning. Frozen backbones, small trainable parts, everything else a plugin.

The names below are the API that stays stable. They are imported when they are first used, so that ``import avcore``
imports no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from avcore import compat

if TYPE_CHECKING:
    from avcore.assemble import create_model
    from avcore.data.features import read_features
    from avcore.data.frontends import SoundFrontEnd
    from avcore.data.pictures import by_number, read_mask
    from avcore.engine.result import RunResult
    from avcore.errors import AssemblyError, AVCoreError, ConfigError, DataError, PluginError
    from avcore.hookspecs import hookimpl
    from avcore.injection import Edit, Edits, Fusion, FusionLayer, Prompt, PromptLayer
    from avcore.model import AVModel
    from avcore.runs import Run, load_run, open_data, run, zero_shot
    from avcore.runs.adapter import load_adapter, save_adapter
    from avcore.runs.convert import convert_checkpoint
    from avcore.specs import (
        AudioGeometry,
        BackboneSpec,
        BlockLayout,
        ClipSettings,
        DatasetSpec,
        FilterBankGeometry,
        FusionSpec,
        HeadSpec,
        ImageGeometry,
        MelGeometry,
        MethodSpec,
        Need,
        NoConfig,
        PromptSpec,
        StageLayout,
        StreamLayout,
        TaskSpec,
        TextGeometry,
        Windows,
    )
    from avcore.states import load_trainable_state, parameter_groups, trainable_state
    from avcore.tasks import (
        Batch,
        Clip,
        Dataset,
        Event,
        Features,
        Head,
        Input,
        Progress,
        StreamFeatures,
        Task,
    )

    __version__: str

# Before anything imports torchvision or torchaudio, as timm and torchmetrics do.
compat.install()

_HOMES = {
    "avcore.assemble": ("create_model",),
    "avcore.runs.adapter": ("load_adapter", "save_adapter"),
    "avcore.runs.convert": ("convert_checkpoint",),
    "avcore.data.features": ("read_features",),
    "avcore.data.frontends": ("SoundFrontEnd",),
    "avcore.data.pictures": ("by_number", "read_mask"),
    "avcore.engine.result": ("RunResult",),
    "avcore.errors": ("AVCoreError", "AssemblyError", "ConfigError", "DataError", "PluginError"),
    "avcore.hookspecs": ("hookimpl",),
    "avcore.injection": ("Edit", "Edits", "Fusion", "FusionLayer", "Prompt", "PromptLayer"),
    "avcore.model": ("AVModel",),
    "avcore.runs": ("Run", "load_run", "open_data", "run", "zero_shot"),
    "avcore.specs": (
        "AudioGeometry",
        "BackboneSpec",
        "BlockLayout",
        "ClipSettings",
        "DatasetSpec",
        "FilterBankGeometry",
        "FusionSpec",
        "HeadSpec",
        "ImageGeometry",
        "MelGeometry",
        "MethodSpec",
        "Need",
        "NoConfig",
        "PromptSpec",
        "StageLayout",
        "StreamLayout",
        "TaskSpec",
        "TextGeometry",
        "Windows",
    ),
    "avcore.states": ("load_trainable_state", "parameter_groups", "trainable_state"),
    "avcore.tasks": (
        "Batch",
        "Clip",
        "Dataset",
        "Event",
        "Features",
        "Head",
        "Input",
        "Progress",
        "StreamFeatures",
        "Task",
    ),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AVCoreError",
    "AVModel",
    "AssemblyError",
    "AudioGeometry",
    "BackboneSpec",
    "Batch",
    "BlockLayout",
    "Clip",
    "ClipSettings",
    "ConfigError",
    "DataError",
    "Dataset",
    "DatasetSpec",
    "Edit",
    "Edits",
    "Event",
    "Features",
    "FilterBankGeometry",
    "Fusion",
    "FusionLayer",
    "FusionSpec",
    "Head",
    "HeadSpec",
    "ImageGeometry",
    "Input",
    "MelGeometry",
    "MethodSpec",
    "Need",
    "NoConfig",
    "PluginError",
    "Progress",
    "Prompt",
    "PromptLayer",
    "PromptSpec",
    "Run",
    "RunResult",
    "SoundFrontEnd",
    "StageLayout",
    "StreamFeatures",
    "StreamLayout",
    "Task",
    "TaskSpec",
    "TextGeometry",
    "Windows",
    "__version__",
    "by_number",
    "convert_checkpoint",
    "create_model",
    "hookimpl",
    "load_adapter",
    "load_run",
    "load_trainable_state",
    "open_data",
    "parameter_groups",
    "read_features",
    "read_mask",
    "run",
    "save_adapter",
    "trainable_state",
    "zero_shot",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("avcore")
    elif name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    else:
        raise AttributeError(f"module 'avcore' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
