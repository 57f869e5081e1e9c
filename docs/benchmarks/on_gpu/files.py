"""Files of tests, of which the script takes models and batches."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[3]


def module_of(path: str) -> ModuleType:
    """A file of tests as a module; what several of them share can be imported by it."""
    shared = str(ROOT / "tests" / "shared")
    if shared not in sys.path:
        sys.path.append(shared)
    spec = importlib.util.spec_from_file_location(f"of_{Path(path).parent.parent.name}_{Path(path).stem}", ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module
