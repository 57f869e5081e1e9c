"""What no tool checks: the core names nothing of a plugin, no file knows a machine, files stay small.

The layers themselves are a contract of import-linter (``make lint``).
"""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = sorted((ROOT / "avcore").rglob("*.py"))
SOURCES = CORE + sorted((ROOT / "plugins").glob("*/src/**/*.py"))

PLUGIN_WORDS = {
    *("ave", "avs", "avvp", "avqa", "avar", "avsbench", "fewshot"),
    *("copl", "stfp", "dgsct", "lavish", "stgcma", "ladder", "mettle", "molt", "cola", "vpt", "mbt", "avmoe"),
    *("vit", "swin", "swinv2", "htsat", "beit", "deit", "dinov2", "dinov3", "siglip", "panns", "vggish"),
}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|home|root|opt|Users|mnt|scratch)/\w|(?<![\w.])\.\./" + "shared")


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def docstrings(tree: ast.Module) -> set[int]:
    """The lines on which docstrings begin: strings that stand alone as statements."""
    return {
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def code_words(source: str, *, prose: bool) -> Iterator[tuple[int, str]]:
    """Words of names and strings, without docstrings; with ``prose`` also without strings that are sentences."""
    described = docstrings(ast.parse(source))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_string = token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
        if is_string and (token.start[0] in described or (prose and " " in token.string)):
            continue
        if is_string or token.type == tokenize.NAME:
            for word in re.findall(r"[A-Z]?[a-z]+[0-9]*|[A-Z]+[0-9]*", token.string):
                yield token.start[0], word.lower()


def plugin_words(source: str, *, prose: bool) -> list[str]:
    return [f"line {line}: {word}" for line, word in code_words(source, prose=prose) if word in PLUGIN_WORDS]


@pytest.mark.parametrize("path", CORE, ids=identify)
def test_the_core_names_no_method_task_or_model_family(path: Path) -> None:
    in_help = "cli" in path.relative_to(ROOT).parts  # help texts give examples
    assert plugin_words(path.read_text(), prose=in_help) == []


@pytest.mark.parametrize(
    "source",
    [
        'if name == "avs":\n    pass\n',
        "def load_vit():\n    ...\n",
        'x = {"copl.rows": 1}\n',
        "class SwinV2Block: ...\n",
    ],
)
def test_names_of_plugins_are_seen(source: str) -> None:
    assert plugin_words(source, prose=True) != []


def test_examples_in_docstrings_and_help_are_allowed() -> None:
    assert plugin_words('"""Such as ``copl.rows``."""\n', prose=False) == []
    assert plugin_words('text = "Names of tasks, such as avs."\n', prose=True) == []
    assert plugin_words('text = "Names of tasks, such as avs."\n', prose=False) != []


def repository_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_knows_the_paths_of_a_machine() -> None:
    found = []
    for path in repository_files():
        if identify(path) == ".ci/run":  # may look for reference data beside the repository
            continue
        text = path.read_bytes().decode(errors="ignore")
        found += [f"{identify(path)}: {hit.group()}" for hit in MACHINE_PATH.finditer(text)]
    assert found == []


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500


def said_past_the_log(tree: ast.Module) -> Iterator[int]:
    """The lines that print, write to a standard stream, or warn of anything but what is deprecated."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in ("print", "click.echo") or re.fullmatch(r"sys\.std(out|err)\.write", called):
            yield node.lineno
        if called in ("warn", "warnings.warn") and not re.search("FutureWarning|DeprecationWarning", ast.unparse(node)):
            yield node.lineno


SPEAKING = ("cli", "engine/display.py")
"""What talks to people: all else logs to a logger below ``avcore``, so that whoever uses it as a library decides."""


@pytest.mark.parametrize("path", CORE, ids=identify)
def test_only_the_command_line_and_the_display_speak(path: Path) -> None:
    tree = ast.parse(path.read_text())
    place = path.relative_to(ROOT / "avcore")
    if not any(place.is_relative_to(one) for one in SPEAKING):
        assert list(said_past_the_log(tree)) == [], "use logging.getLogger(__name__)"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger":
            assert ast.unparse(node) in ("logging.getLogger(__name__)", "logging.getLogger('avcore')")


def test_what_speaks_is_found() -> None:
    lines = [
        "print(1)",
        "sys.stderr.write('x')",
        "warnings.warn('it went wrong', UserWarning)",
        "warnings.warn('write b for a', FutureWarning)",
        "logging.getLogger(__name__).warning('x')",
    ]
    assert list(said_past_the_log(ast.parse("\n".join(lines)))) == [1, 2, 3]
