"""Imports point one way: a module knows its own layer and the layers below it, and no modules import each other."""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"

# From the bottom to the top. A module belongs to the layer with the longest prefix of its name.
LAYERS = (
    ("ladle.errors", "ladle.memory", "ladle.version"),
    ("ladle.checks", "ladle.hub"),
    ("ladle.config", "ladle.seeding", "ladle.layers", "ladle.diffusion.schedule", "ladle.diffusion.prediction"),
    ("ladle.data.files",),
    ("ladle.storage.kinds", "ladle.storage.writing", "ladle.storage.checks", "ladle.storage.folders"),
    ("ladle.data",),
    ("ladle.paper.bottleneck",),
    ("ladle.autoencoder",),
    ("ladle.conditioning",),
    ("ladle.diffusion", "ladle.paper.transformer"),
    ("ladle.sampling",),
    ("ladle.evaluation",),
    ("ladle.storage",),
    ("ladle.control", "ladle.editing"),
    ("ladle.pipeline",),
    ("ladle.health",),
    ("ladle.training",),
    ("ladle.baselines",),
    ("ladle.benchmark",),
    ("ladle.paper",),
    ("ladle.cli",),
    ("ladle",),
)
RANKS = {prefix: rank for rank, layer in enumerate(LAYERS) for prefix in layer}

Arrow = tuple[str, str]


def read_arrows(source: Path = SOURCE) -> set[Arrow]:
    """(importing module, imported module) of every import under `source`, in functions and for types only too."""
    files = {_module_name(path.relative_to(source)): path for path in sorted((source / "ladle").rglob("*.py"))}
    return {
        (module, found)
        for module, path in files.items()
        for names in _imported_names(ast.parse(path.read_text(encoding="utf-8")))
        if (found := next((name for name in names if name in files), None)) is not None
    }


def arrows_up(arrows: set[Arrow]) -> list[Arrow]:
    """The arrows to a higher layer."""
    return sorted((start, end) for start, end in arrows if _rank(start) < _rank(end))


def find_circles(arrows: set[Arrow]) -> list[list[str]]:
    """Circles of modules, each once, as the names on the way round."""
    ends: dict[str, list[str]] = {}
    for start, end in sorted(arrows):
        ends.setdefault(start, []).append(end)
    circles: dict[frozenset[str], list[str]] = {}
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> None:
        if module in way:
            circle = way[way.index(module) :]
            circles.setdefault(frozenset(circle), [*circle, module])
        elif module not in done:
            for end in ends.get(module, ()):
                walk(end, [*way, module])
            done.add(module)

    for module in sorted(ends):
        walk(module, [])
    return list(circles.values())


def _module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imported_names(tree: ast.Module) -> Iterator[tuple[str, ...]]:
    """The modules that each import may mean, the likeliest first: `from a import b` means a.b, or a name in a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "Ladle's imports are absolute"
            yield from ((f"{node.module}.{alias.name}", str(node.module)) for alias in node.names)


def _rank(module: str) -> int:
    return RANKS[max((p for p in RANKS if module == p or module.startswith(f"{p}.")), key=len)]


def test_no_module_imports_from_a_higher_layer() -> None:
    found = arrows_up(read_arrows())
    assert not found, f"{len(found)} imports point up:\n" + "\n".join(f"{start} -> {end}" for start, end in found)


def test_no_modules_import_each_other_in_a_circle() -> None:
    found = find_circles(read_arrows())
    assert not found, f"{len(found)} circles:\n" + "\n".join(" -> ".join(circle) for circle in found)


def test_arrows_of_every_kind_of_import_are_seen(tmp_path: Path) -> None:
    """In functions, for types only, of a module and of a name in it; and a circle of them is found."""
    package = tmp_path / "ladle"
    (package / "data").mkdir(parents=True)
    for name, text in {
        "__init__.py": "",
        "errors.py": "def f():\n    import ladle.config\n",
        "config.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ladle.data import files\n",
        "data/__init__.py": "",
        "data/files.py": "from ladle.errors import UserError\nimport json\n",
    }.items():
        (package / name).write_text(text, encoding="utf-8")
    arrows = read_arrows(tmp_path)
    up = [("ladle.config", "ladle.data.files"), ("ladle.errors", "ladle.config")]
    assert arrows == {*up, ("ladle.data.files", "ladle.errors")}
    assert arrows_up(arrows) == up
    (circle,) = find_circles(arrows)
    assert circle == ["ladle.config", "ladle.data.files", "ladle.errors", "ladle.config"]
