"""Each case runs in an interpreter of its own, because imports cannot be undone."""

import subprocess
import sys

PREPARE = "import sys; from avcore.compat import install; install()\n"


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_installing_imports_nothing_and_happens_once() -> None:
    assert (
        run(
            "import sys\nbefore = len(sys.meta_path)\n"
            "from avcore.compat import install\ninstall(); install()\n"
            "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules\n"
            "print(len(sys.meta_path) - before)"
        )
        == "1"
    )


def test_importing_avcore_installs_it_and_what_avcore_needs_imports_and_works() -> None:
    script = (
        "import avcore, torchmetrics, timm, torchvision.transforms\n"
        "import torchaudio.functional, torchaudio.compliance.kaldi, torch\n"
        "timm.create_model('test_vit', num_classes=0)\n"
        "print(torchaudio.functional.resample(torch.ones(1, 80), 16000, 8000).shape[1])\n"
        "assert torchaudio.compliance.kaldi.fbank(torch.rand(1, 800)).isfinite().all()"
    )
    assert run(script) == "40"


def test_an_import_that_failed_before_is_repaired() -> None:
    script = (
        "try:\n    import torchvision, torchaudio\nexcept Exception:\n    pass\n"
        + PREPARE
        + "import torchvision, torchaudio"
    )
    run(script)


def test_libraries_that_load_are_left_alone() -> None:
    script = PREPARE + (
        "import types, torch\n"
        "torch.ops.torchvision  # no library has declared anything\n"
        "extension = types.ModuleType('torchvision.extension'); extension._has_ops = lambda: True\n"
        "sys.modules['torchvision.extension'] = extension\n"
        "from avcore import compat\n"
        "for finder in sys.meta_path:\n"
        "    finder.find_spec('torchvision._meta_registrations', [], None)\n"
        "print(compat._libraries)"
    )
    assert run(script) == "[]"


def test_a_loaded_torchaudio_library_keeps_its_flags() -> None:
    script = PREPARE + (
        "from importlib.abc import Loader\nimport types\n"
        "class Works(Loader):\n"
        "    def create_module(self, spec): return None\n"
        "    def exec_module(self, module): module._IS_TORCHAUDIO_EXT_AVAILABLE = True\n"
        "from avcore.compat import _TorchaudioExtensionLoader\n"
        "module = types.ModuleType('torchaudio._extension')\n"
        "_TorchaudioExtensionLoader(Works()).exec_module(module)\n"
        "print(module._IS_TORCHAUDIO_EXT_AVAILABLE)"
    )
    assert run(script) == "True"
