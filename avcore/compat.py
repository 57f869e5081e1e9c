"""Make torchvision and torchaudio importable beside a torch that their compiled libraries do not fit.

The wheels of both on PyPI link CUDA libraries. Beside a CPU build of torch those libraries do not load, and
``import torchvision`` (hence ``import timm``) and ``import torchaudio`` raise, although avcore needs only the Python in
them. `install`, which ``import avcore`` calls, puts a finder into `sys.meta_path` that steps in after the native
library has been tried and has failed; where the libraries load it changes nothing.

What works afterwards: timm, torchvision's transforms, torchaudio's functional, transforms and compliance.kaldi. What
does not, because it is compiled code: torchvision's nms and io, torchaudio's forced_align and rnnt_loss.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["install"]

# torchvision defines fake kernels for these operators whether or not its library, which declares them, was loaded.
TORCHVISION_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_libraries: list[Any] = []  # operators exist only as long as the torch.library.Library that defined them


def install() -> None:
    """Install the import hook; call it before anything imports timm, torchvision or torchaudio.

    It may be called any number of times, imports nothing itself, and leaves modules that are already imported alone.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Knows two submodules, each imported just after or while its package tries its native library."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision._meta_registrations":
            _declare_torchvision_operators()
        elif fullname == "torchaudio._extension":
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _TorchaudioExtensionLoader(spec.loader)
            return spec
        return None


def _declare_torchvision_operators() -> None:
    extension = sys.modules.get("torchvision.extension")
    if extension is None or extension._has_ops():
        return
    import torch

    declared = torch.library.Library("torchvision", "FRAGMENT")
    for schema in TORCHVISION_SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            declared.define(schema)
    _libraries.append(declared)


class _TorchaudioExtensionLoader(Loader):
    """Runs ``torchaudio._extension``; if its library fails to load, marks it as absent instead."""

    def __init__(self, original: Loader) -> None:
        self.original = original

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.original.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self.original.exec_module(module)
        except (OSError, ImportError, RuntimeError) as error:
            message = f"This needs torchaudio's compiled library, which does not load beside this torch: {error}"

            def fail_if_no_align(function: Any) -> Any:
                def fail(*args: Any, **kwargs: Any) -> Any:
                    raise RuntimeError(message)

                return fail

            vars(module).update(
                _IS_TORCHAUDIO_EXT_AVAILABLE=False, _IS_ALIGN_AVAILABLE=False, fail_if_no_align=fail_if_no_align
            )
