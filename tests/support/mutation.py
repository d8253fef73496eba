"""Change the pure modules one operator at a time, and list the changes that no unit test of the same area notices.

    make mutation                                        # the lines changed since main, or a sample if there are none
    make mutation MUTATION_ARGS='--all topics template'  # every change in the modules with these names
    make mutation MUTATION_ARGS='--sample 200 --seed 7'

Cosmic Ray makes the changes. Each one runs in a process forked from one that has imported everything but mqttkit,
so a change costs the import of the module under test and its tests up to the first failure. The module on disk stays
as it is. A line that ends with `# pragma: no mutate` is left out: say beside it why no test can notice the change.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators import (
    binary_operator_replacement,
    boolean_replacer,
    break_continue,
    comparison_operator_replacement,
    number_replacer,
    unary_operator_replacement,
    zero_iteration_for_loop,
)
from cosmic_ray.operators.operator import Operator

TESTS_OF = {
    "mqttkit/client/sending/outbox.py": ["client/test_outbox.py", "client/test_block.py"],
    "mqttkit/client/sending/publish_queue.py": ["client/test_outbox.py", "client/test_block.py"],
    "mqttkit/client/sending/packet_batch.py": ["client/test_outbox.py", "client/test_block.py"],
    "mqttkit/client/sending/block.py": ["client/test_block.py"],
    "mqttkit/client/receiving/splitter.py": ["client/test_splitter.py", "client/test_differential.py"],
    "mqttkit/topics.py": ["test_topics.py"],
    "mqttkit/formats/template.py": ["formats/test_template.py"],
    "mqttkit/addresses.py": ["test_addresses.py"],
    "mqttkit/settings/rules.py": ["test_settings.py", "config/test_load.py"],
    "mqttkit/scanner/advertisement.py": ["scanner/test_advertisement.py"],
    "mqttkit/broker/accounts/acl.py": ["broker/test_acl.py"],
    "mqttkit/broker/accounts/acl_simulator.py": ["broker/test_acl_simulator.py", "broker/test_acl.py"],
    "mqttkit/broker/accounts/passwords.py": ["broker/test_passwords.py"],
    "mqttkit/bridge/metric.py": ["bridge/test_metric.py"],
    "mqttkit/bridge/flow/pipeline.py": ["bridge/test_pipeline.py"],
    "mqttkit/controller/security/gate.py": ["controller/test_gate.py"],
    "mqttkit/controller/security/signing.py": ["controller/test_signing.py"],
}
"""Each module with the tests of its area that know it, below tests/unit; those that notice most come first."""

PRAGMA = re.compile(r"#\s*pragma: no mutate")
SAMPLE_IF_NOTHING_CHANGED = 150
BASELINE_LIMIT = 300
"""Seconds that the unit tests of one area may take before any change."""


class ReturnNothing(Operator):
    """Return None instead of a value."""

    def mutation_positions(self, node):
        if node.type == "return_stmt" and node.children[1].get_code().strip() != "None":
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node, index):
        node.children[1] = parso.parse(" None").children[0]
        return node

    @classmethod
    def examples(cls):
        return ()


class InvertMembership(Operator):
    """Swap `in` and `not in`."""

    def mutation_positions(self, node):
        for child in self._operators(node):
            yield child.start_pos, child.end_pos

    def mutate(self, node, index):
        child = self._operators(node)[index]
        swapped = " in" if child.get_code().split() == ["not", "in"] else " not in"
        node.children[node.children.index(child)] = parso.python.tree.Name(swapped, child.start_pos)
        return node

    def _operators(self, node):
        if node.type != "comparison":
            return []
        return [child for child in node.children[1::2] if child.get_code().split()[-1] == "in"]

    @classmethod
    def examples(cls):
        return ()


def _comparisons() -> list[Operator]:
    swaps = [
        "Eq_NotEq",
        "NotEq_Eq",
        "Lt_LtE",
        "Lt_GtE",
        "LtE_Lt",
        "LtE_Gt",
        "Gt_GtE",
        "Gt_LtE",
        "GtE_Gt",
        "GtE_Lt",
        "Is_IsNot",
        "IsNot_Is",
    ]
    return [getattr(comparison_operator_replacement, f"ReplaceComparisonOperator_{swap}")() for swap in swaps]


def _arithmetic() -> list[Operator]:
    swaps = [
        "Add_Sub",
        "Sub_Add",
        "Mul_FloorDiv",
        "Div_Mul",
        "FloorDiv_Mul",
        "Mod_Mul",
        "LShift_RShift",
        "RShift_LShift",
        "BitAnd_BitXor",
    ]
    return [getattr(binary_operator_replacement, f"ReplaceBinaryOperator_{swap}")() for swap in swaps]


OPERATORS: list[Operator] = [
    *_comparisons(),
    *_arithmetic(),
    InvertMembership(),
    ReturnNothing(),
    boolean_replacer.AddNot(),
    boolean_replacer.ReplaceAndWithOr(),
    boolean_replacer.ReplaceOrWithAnd(),
    boolean_replacer.ReplaceTrueWithFalse(),
    boolean_replacer.ReplaceFalseWithTrue(),
    break_continue.ReplaceBreakWithContinue(),
    break_continue.ReplaceContinueWithBreak(),
    number_replacer.NumberReplacer(),
    unary_operator_replacement.ReplaceUnaryOperator_Delete_Not(),
    zero_iteration_for_loop.ZeroIterationForLoop(),
]


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    path: Path
    tests: tuple[str, ...]
    operator: Operator
    occurrence: int
    line: int

    def source(self) -> str:
        """Return the changed module."""
        changed = mutate_code(self.path.read_text(), self.operator, self.occurrence)
        if changed is None:
            raise LookupError(f"{self.path}: no occurrence {self.occurrence} of {type(self.operator).__name__}")
        return changed

    def __str__(self) -> str:
        before, after = self.path.read_text().splitlines(), self.source().splitlines()
        pairs = [(old.strip(), new.strip()) for old, new in zip(before, after, strict=False) if old != new]
        old, new = pairs[0] if pairs else ("", "(a line is gone)")
        return f"{self.path}:{self.line}\n    - {old}\n    + {new}"


def mutants_of(path: Path, tests: list[str]) -> Iterator[Mutant]:
    """Yield every change of a module, but those on lines with the pragma and in annotations."""
    lines = path.read_text().splitlines()
    tree = get_ast(path.read_text())
    for operator in OPERATORS:
        positions = (
            (node, start[0], end[0]) for node in ast_nodes(tree) for start, end in operator.mutation_positions(node)
        )
        for occurrence, (node, first, last) in enumerate(positions):
            if not any(PRAGMA.search(line) for line in lines[first - 1 : last]) and not _in_annotation(node):
                yield Mutant(path, tuple(f"tests/unit/{name}" for name in tests), operator, occurrence, first)


def _in_annotation(node) -> bool:
    while node is not None:
        if node.type in {"annassign", "tfpdef"}:
            return node.type == "tfpdef" or "=" not in [child.get_code().strip() for child in node.children]
        node = node.parent
    return False


class _Replacement(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Load one module from changed source, and every other module as usual."""

    def __init__(self, path: Path, source: str) -> None:
        self.name = ".".join(path.with_suffix("").parts)
        self._path, self._source = path, source
        self.loaded = False

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(self._path.resolve()))

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, str(self._path.resolve()), "exec")

    def exec_module(self, module: ModuleType) -> None:
        self.loaded = True
        module.__file__ = str(self._path.resolve())
        exec(self.get_code(module.__name__), module.__dict__)


def _fork_tests(tests: tuple[str, ...], replacement: _Replacement | None, log: Path) -> int:
    """Start the tests in a forked process group and return its process id."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if replacement:
            sys.meta_path.insert(0, replacement)
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", "--tb=line"]
        options += ["--assert=plain"]  # rewriting would load mqttkit, which has a pytest plugin, from its files
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis has been imported for all of them
        status = int(pytest.main([*options, f"--basetemp={log.with_suffix('.tmp')}", *tests]))
        if replacement and not replacement.loaded:
            raise RuntimeError(f"{' '.join(tests)} did not load {replacement.name}")
        Path(f"{log}.modules").write_text("\n".join(sorted(sys.modules)))
    except BaseException:
        status = 70
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int, limit: float) -> int | None:
    """Return the exit code, or None if the time limit passed and the process was killed."""
    deadline = time.monotonic() + limit
    with os.fdopen(os.pidfd_open(child)) as exited:
        import select

        finished = bool(select.select([exited], [], [], max(0.0, deadline - time.monotonic()))[0])
    if not finished:
        os.killpg(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if finished else None


def _preload(tests: tuple[str, ...], scratch: Path) -> None:
    """Run the tests once, then import what they imported, except mqttkit and the tests."""
    log = scratch / "preload.log"
    status = _wait(_fork_tests(tests, None, log), BASELINE_LIMIT)
    if status != 0:
        raise SystemExit(f"{' '.join(tests)} fails, or takes over {BASELINE_LIMIT} s:\n{log.read_text()}")
    for name in Path(f"{log}.modules").read_text().split():
        if name.split(".")[0] not in {"mqttkit", "tests", "conftest", "__main__"} and name not in sys.modules:
            try:
                importlib.import_module(name)
            except ImportError:  # an alias that a package has made; the fork makes it itself
                continue


def _time_limit(path: Path, tests: tuple[str, ...], scratch: Path) -> float:
    """Return how long a changed module may take: the tests must pass with the unchanged module, loaded the same way."""
    log = scratch / "unchanged.log"
    started = time.monotonic()
    if _wait(_fork_tests(tests, _Replacement(path, path.read_text()), log), BASELINE_LIMIT) != 0:
        raise SystemExit(f"{' '.join(tests)} fails with {path} unchanged:\n{log.read_text()}")
    return 10 + 5 * (time.monotonic() - started)


def _noticed(mutant: Mutant, limit: float, scratch: Path, number: int) -> bool:
    log = scratch / f"{number}.log"
    child = _fork_tests(mutant.tests, _Replacement(mutant.path, mutant.source()), log)
    return _wait(child, limit) != 0


def _changed_lines(path: Path, since: str) -> set[int]:
    """Return the numbers of the lines that differ from a revision, the working tree included."""
    diff = subprocess.run(
        ["git", "diff", "-U0", since, "--", str(path)], capture_output=True, text=True, check=True
    ).stdout
    changed: set[int] = set()
    for start, length in re.findall(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", diff, re.MULTILINE):
        changed.update(range(int(start), int(start) + int(length or 1)))
    return changed


def _branch_point() -> str:
    for branch in ("origin/main", "main"):
        found = subprocess.run(["git", "merge-base", "HEAD", branch], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    return "HEAD"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="part of a module's path; without one, every listed module")
    parser.add_argument("--all", action="store_true", help="every change, not only those on changed lines")
    parser.add_argument("--since", metavar="REVISION", help="changed since this revision (default: the branch point)")
    parser.add_argument("--sample", type=int, metavar="N", help="at most N changes, chosen by --seed from all lines")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the sample (default: 1)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="at a time (default: 2)")
    parser.add_argument("--minimum", type=float, default=90, metavar="PERCENT", help="exit 1 below (default: 90)")
    return parser.parse_args()


def _modules(names: list[str]) -> Iterator[tuple[Path, list[str]]]:
    for pattern, tests in TESTS_OF.items():
        found = list(Path().glob(pattern))
        if not found:
            raise SystemExit(f"{pattern} matches no file: correct TESTS_OF in tests/support/mutation.py")
        for path in found:
            if not names or any(name in str(path) for name in names):
                yield path, tests


def _choose(arguments: argparse.Namespace) -> list[Mutant]:
    everything = [mutant for path, tests in _modules(arguments.names) for mutant in mutants_of(path, tests)]
    sample = arguments.sample
    if not arguments.all and not sample:
        since = arguments.since or _branch_point()
        changed = {path: _changed_lines(path, since) for path in {mutant.path for mutant in everything}}
        chosen = [mutant for mutant in everything if mutant.line in changed[mutant.path]]
        if chosen or arguments.since:
            return chosen
        print(f"no listed module differs from {since[:10]}: taking a sample of all of them", flush=True)
        sample = SAMPLE_IF_NOTHING_CHANGED
    if sample and sample < len(everything):
        return random.Random(arguments.seed).sample(everything, sample)
    return everything


def main() -> int:
    """Run the chosen changes, print the survivors and a table, and return 1 below the minimum."""
    arguments = _arguments()
    os.environ["CI"] = "true"  # Hypothesis tries the same examples each time
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    chosen = _choose(arguments)
    noticed: Counter[Path] = Counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        scratch = Path(folder)
        for tests in sorted({mutant.tests for mutant in chosen}):
            _preload(tests, scratch)
        limits = {path: _time_limit(path, tests, scratch) for path, tests in {(one.path, one.tests) for one in chosen}}
        verdicts = pool.map(lambda pair: _noticed(pair[1], limits[pair[1].path], scratch, pair[0]), enumerate(chosen))
        for mutant, verdict in zip(chosen, verdicts, strict=True):
            noticed[mutant.path] += verdict
            if not verdict:
                print(f"SURVIVED {mutant}", flush=True)
    return _report(Counter(mutant.path for mutant in chosen), noticed, arguments.minimum)


def _report(total: Counter[Path], noticed: Counter[Path], minimum: float) -> int:
    print(f"\n{'module':<48}{'changes':>9}{'noticed':>9}")
    for path in sorted(total):
        print(f"{path!s:<48}{total[path]:>9}{noticed[path] / total[path]:>9.0%}")
    if not total:
        return 0
    share = 100 * sum(noticed.values()) / total.total()
    print(f"{'all':<48}{total.total():>9}{share / 100:>9.1%}")
    return int(share < minimum)


if __name__ == "__main__":
    sys.exit(main())
