"""What the light module declares, and that it is light."""

import subprocess
import sys

import avcore_dgsct
from avcore.injection import Fusion
from avcore.tasks import Head


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, avcore_dgsct as p; [list(f()) for f in (p.avcore_fusions, p.avcore_heads, p.avcore_methods)]; "
        "print(sorted({'torch', 'numpy', 'timm', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_declared_can_be_loaded() -> None:
    (fusion,), (method,) = avcore_dgsct.avcore_fusions(), avcore_dgsct.avcore_methods()
    assert issubclass(fusion.load(), Fusion)
    assert fusion.finishes == {"pooled"}
    assert method.fusions == (fusion.name,)
    assert method.defaults == {"plan": {"atomic_audio": True}}
    for head in avcore_dgsct.avcore_heads():
        assert issubclass(head.load(), Head)
        assert head.config()
