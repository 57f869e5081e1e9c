"""`check_plugin` and `parametrize_with_checks`: the checks of the kit applied to one plugin."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avcore.errors import AVCoreError, did_you_mean
from avcore.testing.checks import CheckDefinition, Skipped, load_checks
from avcore.testing.report import Report, Result
from avcore.testing.subject import DataRoot, Subject

if TYPE_CHECKING:
    import pytest

__all__ = ["Check", "check_plugin", "checks_for", "checks_of", "parametrize_with_checks", "run_checks"]


@dataclass(frozen=True)
class Check:
    """A check of one thing that a plugin offers; call it to run it.

    Attributes:
        id: such as ``prompt vpt: batch equivariance``.
        definition: what it asks for.
        case: what it looks at.
    """

    id: str
    definition: CheckDefinition
    case: Any

    def __call__(self) -> None:
        """Run it.

        Raises:
            AssertionError: what does not conform, where, and what to do.
            unittest.SkipTest: it cannot be run here; says why.
        """
        self.definition.function(self.case)


def parametrize_with_checks(
    distribution: str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    data: Mapping[str, DataRoot] | None = None,
    sets: Mapping[str, Sequence[str]] | None = None,
) -> "pytest.MarkDecorator":
    """Decorate a test of one argument ``check``, whose body is ``check()``: it becomes one test for each check.

    Args:
        distribution: the installed plugin.
        expected_failures: id of a check -> why it fails. One that passes all the same fails the test.
        data: name of a data set -> a folder with its files, or a function that makes them in the folder that it is
            given and returns their root.
        sets: name of a part, head, task, backbone or data set -> settings to check it with, ``key=value``.

    Raises:
        AVCoreError: no such plugin is installed, or an argument names what it does not have.
    """
    import pytest

    expected = dict(expected_failures or {})
    checks = checks_for(distribution, data=data, sets=sets)
    _refuse_unknown(expected, checks)
    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(
                one,
                id=one.id,
                marks=[pytest.mark.xfail(reason=expected[one.id], strict=True)] if one.id in expected else [],
            )
            for one in checks
        ],
    )


def check_plugin(
    distribution: str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    data: Mapping[str, DataRoot] | None = None,
    sets: Mapping[str, Sequence[str]] | None = None,
    progress: Callable[[Result], None] | None = None,
) -> Report:
    """Run all checks of an installed plugin; the arguments are those of `parametrize_with_checks`.

    Args:
        progress: called with each result as it comes.
    """
    subject = Subject.of_distribution(distribution, data=dict(data or {}), sets=dict(sets or {}))
    return run_checks(subject, expected_failures=expected_failures, progress=progress)


def checks_for(
    distribution: str,
    *,
    data: Mapping[str, DataRoot] | None = None,
    sets: Mapping[str, Sequence[str]] | None = None,
) -> list[Check]:
    """The checks of an installed plugin, for runners other than pytest."""
    return checks_of(Subject.of_distribution(distribution, data=dict(data or {}), sets=dict(sets or {})))


def checks_of(subject: Subject) -> list[Check]:
    """All checks of a plugin, in the order in which they run."""
    if not __debug__:
        raise AVCoreError("Checks are assertions, which Python leaves out under -O and PYTHONOPTIMIZE: run it without.")
    definitions = load_checks()
    subject.check_names()
    return [
        Check(f"{label}: {definition.name}", definition, case)
        for kind, label, case in _cases(subject)
        for definition in definitions
        if definition.kind == kind
    ]


def run_checks(
    subject: Subject,
    *,
    expected_failures: Mapping[str, str] | None = None,
    progress: Callable[[Result], None] | None = None,
) -> Report:
    """Run all checks of a plugin, one after the other; none stops the others."""
    checks = checks_of(subject)
    expected = dict(expected_failures or {})
    _refuse_unknown(expected, checks)
    results = []
    for one in checks:
        results.append(_run(one, expected.get(one.id)))
        if progress is not None:
            progress(results[-1])
    return Report(distribution=subject.plugin.distribution, version=subject.plugin.version, results=tuple(results))


def _run(check: Check, expected: str | None) -> Result:
    start = time.perf_counter()

    def result(state: Any, reason: str = "") -> Result:
        return Result(id=check.id, state=state, reason=reason, seconds=round(time.perf_counter() - start, 3))

    try:
        check()
    except Skipped as skipped:
        return result("skipped", str(skipped))
    except Exception as error:
        if expected is not None:
            return result("expected failure", expected)
        text = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return result("failed", text)
    if expected is not None:
        return result("failed", f"It was expected to fail ({expected}), and passed: take it out of expected_failures.")
    return result("passed")


def _cases(subject: Subject) -> Iterator[tuple[str, str, Any]]:
    """What there is to look at: kind, the first half of the checks' ids, the case."""
    from avcore.testing.cases import (
        BackboneCase,
        DatasetCase,
        HeadCase,
        MethodCase,
        PackageCase,
        PartCase,
        SettingsCase,
        TaskCase,
    )

    yield "package", "package", PackageCase(subject)
    kinds: tuple[tuple[str, str, str, Any], ...] = (
        ("backbones", "backbone", "backbone", BackboneCase),
        ("prompts", "part", "prompt", PartCase),
        ("fusions", "part", "fusion", PartCase),
        ("heads", "head", "head", HeadCase),
        ("tasks", "task", "task", TaskCase),
        ("datasets", "data set", "data set", DatasetCase),
        ("methods", "method", "method", MethodCase),
    )
    for hook, kind, label, case in kinds:
        for spec in subject.specs(hook):
            if hook != "methods":
                yield "settings", f"{label} {spec.name}", SettingsCase(subject, spec)
            yield kind, f"{label} {spec.name}", case(subject, spec)


def _refuse_unknown(expected: Mapping[str, str], checks: Sequence[Check]) -> None:
    known = [one.id for one in checks]
    for name, reason in expected.items():
        if name not in known:
            raise AVCoreError(f"expected_failures names '{name}', which is no check here.{did_you_mean(name, known)}")
        if not reason.strip():
            raise AVCoreError(f"expected_failures gives no reason for '{name}': say why it fails.")
